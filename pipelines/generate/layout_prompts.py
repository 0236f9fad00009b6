"""Reads a prompt with several adapters' tokens: its subjects, and the prompts that lay them out and generate them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from dreamtune.errors import ConfigError
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.words import holds, one_form, places, same

_LINK = re.compile(r"(?:\s|^)(?:and|or|next to|beside|near|behind|in front of|with)\s*$|[,;.]\s*$", re.IGNORECASE)
"""Endings of a text that lead to the next subject."""
_SIDE = re.compile(
    r"\s*\b(?:on|to|at|in) the (?:far |very )?(left|right|middle|center|centre)\b(?: side)?(?! of)", re.IGNORECASE
)
_SIDES = {"left": "left", "right": "right", "middle": "middle", "center": "middle", "centre": "middle"}
_OWN = re.compile(
    r"\s*\b(?:wearing|with|holding|that|which)\b.*?(?=[,;]|\s(?:in|on|at|under|by|near)\s|$)", re.IGNORECASE
)
"""What may follow the last subject and is said of it alone."""
_PHRASE = re.compile(r".*(?P<phrase>\b(?:an?|the|one|my)\s+(?:[^\s,;.]+\s+){0,4}$)", re.IGNORECASE | re.DOTALL)
"""The words before a subject's token that belong to it: from the last article on."""


@dataclass(frozen=True)
class Naming:
    """A subject that a prompt names."""

    use: AdapterRef
    token: str
    cls: str
    prompt: str
    """Prompt of it alone: the subject, and whatever the prompt says about the whole image."""
    phrase: str
    """The part of the prompt about the subject itself, without a side."""
    side: str = ""
    """The side that the prompt gives it: left, middle, right or none."""


@dataclass(frozen=True)
class ClassPrompt:
    """A prompt in which every subject is replaced by its class."""

    text: str
    subjects: tuple[Naming, ...]
    """In the order in which the prompt names them."""
    spots: tuple[int, ...]
    """Of each subject, where its class word begins in `text`."""
    lead: str = ""
    """What comes before the first subject."""
    tail: str = ""
    """What the prompt says about the whole image after the last subject."""

    def beside(self, number: int, sides: Sequence[str]) -> str:
        """Prompt of a subject's region: the subject first, then any of the others' classes, each at its side.

        It comes first because that is where prompts of it alone have its token: there an adapter responds best.
        """
        others = [
            f"{_article('a ', it.cls)}{it.cls} {side}"
            for at, (it, side) in enumerate(zip(self.subjects, sides, strict=True))
            if at != number
        ]
        listed = [f"{self.subjects[number].phrase} {sides[number]}", *others]
        tail = self.tail if self.tail[:1] in ",;." else f" {self.tail}"
        return _tidy(f"{self.lead}{', '.join(listed[:-1])} and {listed[-1]}{tail}")

    def from_the_left(self) -> list[int]:
        """Position of each subject from the left, by the sides in the prompt; empty unless it has all of them."""
        ranks = [("left", "middle", "right").index(it.side) if it.side else -1 for it in self.subjects]
        return [] if -1 in ranks or len(set(ranks)) < len(ranks) else [sorted(ranks).index(rank) for rank in ranks]

    def recolored(self, color: str, subject: int) -> str:
        """The text with an adjective before the class word of a subject."""
        spot = self.spots[subject]
        head = self.text[:spot]
        if match := re.search(r"\ban?\s$", head, re.IGNORECASE):
            head = head[: match.start()] + _article(match[0], color)
        return f"{head}{color} {self.text[spot:]}"


def class_prompt(prompt: str, adapters: Sequence[AdapterRef]) -> ClassPrompt:
    """Find the subjects of `adapters` in a prompt: each by its token, which its class word may follow.

    Adapters without a recorded token have no subject there. Raises ConfigError for an adapter that the prompt does not
    name, a token shared by two adapters, a subject without a known class, and fewer than two subjects.
    """
    _refuse_shared_words(adapters)
    prompt = one_form(prompt)
    found = [
        (places(prompt, [one_form(token)])[0], token, cls, use)
        for use in adapters
        for token, cls in use.file.subjects
        if token and holds(prompt, token)
    ]
    named = sorted(found, key=lambda it: it[0])
    for use in adapters:
        if use.file.tokens and not any(it[3] is use for it in named):
            token, cls = next(it for it in use.file.subjects if it[0])
            raise ConfigError(
                f"the prompt {prompt!r} names no subject of {use.path.name}: add e.g. "
                f"'a {f'{token} {cls}'.strip()}', or omit the adapter"
            )
    if len(named) < 2:
        raise ConfigError(
            f"layout = auto needs two subjects or more, but the prompt {prompt!r} names {len(named)}: omit layout"
        )
    return _read(prompt, named)


def _refuse_shared_words(adapters: Sequence[AdapterRef]) -> None:
    for first, second in combinations(adapters, 2):
        for token in first.file.tokens:
            if any(same(token, other) for other in second.file.tokens):
                raise ConfigError(
                    f"{first.path.name} and {second.path.name} both use the token {token!r}: no prompt can tell them "
                    "apart; give each its own region, or retrain one with another token"
                )


def _read(prompt: str, named: Sequence[tuple[tuple[int, int], str, str, AdapterRef]]) -> ClassPrompt:
    """Parse a prompt whose tokens are at these places."""
    text, done = "", 0
    spots, starts, ends = list[int](), list[int](), list[int]()
    for number, ((start, end), token, cls, use) in enumerate(named):
        if not cls:
            raise ConfigError(
                f"{use.path.name} does not record the class of {token!r}, which layout = auto needs: give each adapter "
                "its own region"
            )
        until = named[number + 1][0][0] if number + 1 < len(named) else len(prompt)
        own = places(prompt[end:until], [one_form(cls)])
        head = prompt[done:start]
        phrase = _PHRASE.match(head)
        starts.append(done + phrase.start("phrase") if phrase else start)
        if own:  # "a sks cat", "a sks little cat": the word alone is left out
            rest = prompt[end : end + own[0][0]].lstrip()
            stop = end + own[0][1]
        else:
            rest, stop = "", end
        if match := re.search(r"\ban?\s$", head, re.IGNORECASE):
            head = head[: match.start()] + _article(match[0], rest or cls)
        text += head + rest
        spots.append(len(text))
        text += cls
        ends.append(stop)
        done = stop
    text += prompt[done:]
    lead, tail = prompt[: starts[0]], _SIDE.sub("", prompt[ends[-1] :])
    own_tail = match[0] if (match := _OWN.match(tail)) else ""
    tail = tail[len(own_tail) :]
    prompts, phrases, sides = list[str](), list[str](), list[str]()
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < len(starts) else ends[-1]
        own = prompt[start:stop].strip()
        while own != (shorter := _LINK.sub("", own).strip()):
            own = shorter
        last = number == len(starts) - 1
        side = _SIDE.search(own) or (_SIDE.match(prompt[ends[-1] :]) if last else None)
        sides.append(_SIDES[side[1].lower()] if side else "")
        own += own_tail if last else ""
        phrases.append(_tidy(_SIDE.sub("", own)))
        prompts.append(_tidy(f"{lead}{_SIDE.sub('', own)}{'' if tail[:1] in ',;.' else ' '}{tail}"))
    subjects = [
        Naming(use, token, cls, alone, phrase, side)
        for (_, token, cls, use), alone, phrase, side in zip(named, prompts, phrases, sides, strict=True)
    ]
    return ClassPrompt(text, tuple(subjects), tuple(spots), lead, tail)


def _article(article: str, word: str) -> str:
    """The article before `word`, written as it was: a or an."""
    return article[0] + ("n " if word[:1].lower() in "aeiou" else " ")


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
