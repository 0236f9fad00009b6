"""Weights of words in a prompt, written (word:1.3) as in AUTOMATIC1111's web UI, and what they do to its states."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from dreamtune.errors import ConfigError
from dreamtune.words import one_form

from .prompts import MARKS, Tokens

USUAL = 1.1
"""Of (word) without a number; [word] is its reciprocal."""
MOST = 10.0
"""Weights beyond this, or below its negative, make pictures of nothing and overflow."""
_MARK = re.compile(r"\\[\\()\[\]]|[(\[]|:\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[)\]]")


@dataclass(frozen=True)
class Emphasis:
    """A prompt and how much each of its letters counts."""

    text: str
    """Without brackets, in one form (see words.one_form)."""
    weights: tuple[float, ...]
    """Of each character."""

    @classmethod
    def of(cls, prompt: str) -> Self:
        r"""Read (word:1.3), (word) for 1.1, [word] for 1/1.1, one inside another, and \( for a bracket itself.

        A bracket that is never closed reaches to the end, and one that was never opened is a letter. Raises ConfigError
        for a word that would weigh more than MOST times as much.
        """
        prompt = one_form(prompt)
        text: list[str] = []
        opened: list[tuple[str, int]] = []
        count = {"(": 0, "[": 0}
        spans: list[tuple[int, int, float]] = []
        place = length = 0

        def write(piece: str) -> None:
            nonlocal length
            text.append(piece)
            length += len(piece)

        def close(bracket: str, weight: float) -> bool:
            """Close the last bracket of the kind, and what was left open inside of it."""
            if not count[bracket]:
                return False
            while opened:
                kind, start = opened.pop()
                count[kind] -= 1
                spans.append((start, length, weight if kind == bracket else _usual(kind)))
                if kind == bracket:
                    break
            return True

        for mark in _MARK.finditer(prompt):
            write(prompt[place : mark.start()])
            place = mark.end()
            found = mark[0]
            if found[0] == "\\":
                write(found[1])
            elif found in "([":
                opened.append((found, length))
                count[found] += 1
            else:
                bracket = "[" if found == "]" else "("
                weight = float(mark["weight"]) if mark["weight"] else _usual(bracket)
                if not close(bracket, weight):
                    write(found)
        write(prompt[place:])
        spans += [(start, length, _usual(kind)) for kind, start in opened]
        weights = _product(spans, length)
        if largest := max((it for it in weights if not abs(it) <= MOST), default=None):
            raise ConfigError(
                f"a word of the prompt has the weight {largest:.3g}: use weights from -{MOST:g} to {MOST:g}"
            )
        return cls("".join(text), weights)

    def of_tokens(self, tokenizer: CLIPTokenizer, words: Mapping[str, range]) -> Tensor:
        """(tokens,) fp32 weight of all that a text encoder reads; the marks around the prompt, and after it, have 1.

        words: as in prompts.tokenize. A token over several letters has the weight of its last one.
        """
        found = torch.ones(tokenizer.model_max_length)
        ends = Tokens.of(tokenizer, self.text, words).ends[: len(found) - MARKS]
        found[1 : 1 + len(ends)] = torch.tensor([self.weights[end - 1] for end in ends])
        return found


def emphasized(states: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """States (n, tokens, dim) of prompts, each token's multiplied by its weight (tokens,).

    Then all of a prompt's are scaled by one number, so that their mean length is what it was. The web UI keeps the mean
    of all numbers instead, which differs little where that mean is not near zero, and means nothing where it is.
    """
    scaled = states * torch.stack(list(weights)).to(states)[..., None]
    before, after = (it.norm(dim=-1).mean(dim=-1) for it in (states, scaled))
    return scaled * (before / after)[:, None, None]


def _usual(bracket: str) -> float:
    return USUAL if bracket == "(" else 1 / USUAL


def _product(spans: Sequence[tuple[int, int, float]], length: int) -> tuple[float, ...]:
    """Of each of `length` places the product of the weights of those spans, one inside another, that it is in."""
    events = sorted(((start, -end, weight) for start, end, weight in spans if start < end))
    found: list[float] = []
    around: list[tuple[int, float]] = [(length, 1.0)]
    for start, end, weight in [*events, (length, -length, 1.0)]:
        while len(found) < start:
            while around[-1][0] <= len(found):
                around.pop()
            found += [around[-1][1]] * (min(around[-1][0], start) - len(found))
        while around[-1][0] <= start < length:
            around.pop()
        around.append((-end, around[-1][1] * weight))
    return tuple(found)
