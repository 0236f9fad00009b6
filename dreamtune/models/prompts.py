"""Prompts as the numbers that text encoders take, new words included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str], words: Mapping[str, range]) -> tuple[Tensor, Tensor]:
    """Numbers and attention mask, (n, tokens) each, of prompts filled up or cut to the encoder's length.

    words: new word -> the numbers that stand for it, wherever it is a word of its own, in small letters or large.
    """
    plain = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    numbers, mask = plain.input_ids, plain.attention_mask
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    longest = numbers.shape[1]
    for row, prompt in enumerate(prompts):
        pieces = pattern.split(prompt) if words else [prompt]
        if len(pieces) == 1:
            continue
        found: list[Any] = []
        for index, piece in enumerate(pieces):
            new = index % 2 == 1  # what the group matched stands between the rest
            found += _meant(piece, words) if new else tokenizer(piece, add_special_tokens=False).input_ids
        found = [tokenizer.bos_token_id, *found[: longest - 2], tokenizer.eos_token_id]
        numbers[row, :] = tokenizer.pad_token_id
        numbers[row, : len(found)] = numbers.new_tensor(found)
        mask[row, :] = 0
        mask[row, : len(found)] = 1
    return numbers, mask


def _meant(piece: str, words: Mapping[str, range]) -> range:
    """By the rule that found it: for it "ſks" is "sks", which are not the same in small letters."""
    return next(places for word, places in words.items() if re.fullmatch(re.escape(word), piece, re.IGNORECASE))
