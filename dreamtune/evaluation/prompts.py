"""Evaluation prompts: each with the subject's token, and the same with only its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamtune.errors import ConfigError
from dreamtune.words import replaced

PLACES = (
    "on the beach",
    "in the snow",
    "in the forest",
    "at night",
    "on a red carpet",
    "in the city",
    "on the grass",
    "under water",
    "in the desert",
    "in a room",
)
"""What is asked for when nothing else is: the ten places that the embedded base knows, and that any base can draw."""


@dataclass(frozen=True)
class PromptPair:
    """One thing to draw, asked for in two ways."""

    named: str
    """With the subject's name: "a sks cat on the beach"."""
    bare: str
    """The same without it: "a cat on the beach". What the base draws, and what pictures of either are read against."""

    @classmethod
    def of(cls, text: str, token: str, class_word: str) -> PromptPair:
        """From a prompt with {token} and {class}, or with the token itself.

        Raises ConfigError when the prompt does not name the subject, or the class word is not there without it.
        """
        marked = replaced(text, token, "{token}").replace("{class}", class_word)
        if "{token}" not in marked:
            raise ConfigError(f"the prompt {text!r} does not name the subject: add {{token}}, which is {token!r}")
        bare = " ".join(marked.replace("{token}", " ").split())
        if class_word not in bare:
            raise ConfigError(f"the prompt {text!r} does not say what the subject is: write {{token}} {{class}}")
        return cls(marked.replace("{token}", token), bare)


def default_prompts(token: str, class_word: str, count: int = len(PLACES)) -> list[PromptPair]:
    """The subject in the first `count` of PLACES."""
    return [PromptPair.of(f"a {{token}} {{class}} {place}", token, class_word) for place in PLACES[:count]]


def parse_prompts(lines: Sequence[str], token: str, class_word: str, source: str) -> list[PromptPair]:
    """One prompt per line; blank lines and lines that begin with # are left out.

    Raises ConfigError that names `source` and the line.
    """
    pairs = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            pairs.append(PromptPair.of(text, token, class_word))
        except ConfigError as error:
            raise ConfigError(f"{source}, line {number}: {error}") from None
    if not pairs:
        raise ConfigError(f"{source} has no prompts: write one per line, e.g. 'a {{token}} {{class}} at night'")
    return pairs
