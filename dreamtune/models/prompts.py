"""Prompts as the numbers that text encoders take, new words included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MARKS = 2
"""Tokens that stand around every prompt: its beginning and its end."""


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str], words: Mapping[str, range]) -> tuple[Tensor, Tensor]:
    """Numbers and attention mask, (n, tokens) each, of prompts filled up or cut to the encoder's length.

    words: new word -> the numbers that stand for it, wherever it is a word of its own, in small letters or large.
    """
    plain = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    numbers, mask = plain.input_ids, plain.attention_mask
    longest = numbers.shape[1]
    for row, prompt in enumerate(prompts):
        if not words or len(_pattern(words).split(prompt)) == 1:
            continue
        found = Tokens.of(tokenizer, prompt, words).numbers
        found = [tokenizer.bos_token_id, *found[: longest - MARKS], tokenizer.eos_token_id]
        numbers[row, :] = tokenizer.pad_token_id
        numbers[row, : len(found)] = numbers.new_tensor(found)
        mask[row, :] = 0
        mask[row, : len(found)] = 1
    return numbers, mask


@dataclass(frozen=True)
class Tokens:
    """All tokens of a prompt, however many a text encoder reads."""

    numbers: list[int]
    ends: list[int]
    """Of each token, the place in the prompt where the text that it stands for ends."""

    @classmethod
    def of(cls, tokenizer: CLIPTokenizer, prompt: str, words: Mapping[str, range]) -> Tokens:
        """Those of `prompt`, the marks around it left out; words as in :func:`tokenize`."""
        found, place = cls([], []), 0
        for index, piece in enumerate(_pattern(words).split(prompt) if words else [prompt]):
            if index % 2:  # what the group matched stands between the rest
                numbers = _meant(piece, words)
                ends = [len(piece)] * len(numbers)
            else:  # verbose: transformers would warn of what is told better here
                read: Any = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                numbers, ends = read.input_ids, [end for _, end in read.offset_mapping]
            found.numbers.extend(numbers)
            found.ends.extend(place + end for end in ends)
            place += len(piece)
        return found


def _pattern(words: Mapping[str, range]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def _meant(piece: str, words: Mapping[str, range]) -> range:
    """By the rule that found it: for it "ſks" is "sks", which are not the same in small letters."""
    return next(places for word, places in words.items() if re.fullmatch(re.escape(word), piece, re.IGNORECASE))
