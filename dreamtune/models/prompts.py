"""Prompts as the numbers that text encoders take, new words included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import CLIPTokenizer

from dreamtune.words import one_form, places, same

MARKS = 2
"""Tokens that stand around every prompt: its beginning and its end."""


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str], words: Mapping[str, range]) -> tuple[Tensor, Tensor]:
    """Numbers and attention mask, (n, tokens) each, of prompts filled up or cut to the encoder's length.

    words: new word -> the numbers that stand for it, wherever it is a word of its own, in small letters or large.
    """
    prompts = [one_form(prompt) for prompt in prompts]
    plain = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    numbers, mask = plain.input_ids, plain.attention_mask
    longest = numbers.shape[1]
    for row, prompt in enumerate(prompts):
        if not places(prompt, words):
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
        """Those of `prompt`, the marks around it left out; words as in :func:`tokenize`.

        Both are to be in one form, see words.one_form.
        """
        found, place = cls([], []), 0
        for start, end in [*places(prompt, words), (len(prompt), len(prompt))]:
            # verbose: transformers would warn of what is told better here
            read: Any = tokenizer(
                prompt[place:start], add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            found.numbers.extend(read.input_ids)
            found.ends.extend(place + until for _, until in read.offset_mapping)
            meant = next((numbers for word, numbers in words.items() if same(word, prompt[start:end])), range(0))
            found.numbers.extend(meant)
            found.ends.extend([end] * len(meant))
            place = end
        return found
