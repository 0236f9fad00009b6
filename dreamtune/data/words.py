"""Whether a base's tokenizer reads the token, captions and prompts as intended."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from dreamtune.data.images import Remark
from dreamtune.data.survey import Photo
from dreamtune.models.prompts import MARKS, Tokens
from dreamtune.words import holds, one_form

_END = "</w>"
"""CLIP's mark of the end of a word."""
_RARE = "use a rare word such as sks, since a known word keeps some of its meaning"
_LARGE = 10_000
"""Size from which a vocabulary was learned from real text, so that its order tells what is common."""
_BRIEF = 40
"""Letters of a text that are shown."""
_CALL = re.compile(
    r"<(?:lora|lyco|lycoris|hypernet):(?P<file>[^<>:]{1,200})(?::(?P<strength>[^<>:]{0,20}))?[^<>]{0,200}>", re.I
)
_WEIGHT = re.compile(
    r"\([^()]{1,200}:\s{0,9}[+-]?\d{0,9}\.?\d{1,9}\s{0,9}\)|\({2}[^()]{1,200}\){2}|\[{2}[^\[\]]{1,200}\]{2}"
)
"""Brackets that are hardly meant as such: with a number, or two of them."""
_EDIT = re.compile(r"\[[^\[\]]{0,200}(?::[^\[\]]{0,200}:\s{0,9}\d{0,4}\.?\d{1,9}\s{0,9}|\|[^\[\]]{0,200})\]")
"""[from:to:when] and [one|other], which change a prompt between steps."""


def token_remarks(token: str, class_word: str, tokenizer: Any) -> list[Remark]:
    """At most one remark on a token that the base already knows as something else.

    DreamBooth (Ruiz et al. 2023, section 3.1) wants a rare identifier: common words bring their own meaning, which
    training has to unlearn. A word counts as known if it is one entry of the CLIP tokenizer's vocabulary, and as
    common if that is in the first half of a large one: entries stand in the order in which they were merged, the
    most frequent first.
    """
    words = token.lower().split()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    known = [word for word in words if word.isalpha() and len(word) > 1 and word + _END in vocabulary]
    if len(known) > 1:
        problem = f"is several common words ({', '.join(known)})"
    elif set(words) & set(class_word.lower().split()):
        problem = f"contains the class word ({class_word})"
    elif len(words) == 1 and known and len(vocabulary) > _LARGE and vocabulary[words[0] + _END] < len(vocabulary) / 2:
        problem = "is a common word"
    else:
        return []
    return [Remark(f"token {token!r}", problem, _RARE)]


@dataclass(frozen=True)
class Reading:
    """What a text encoder reads of a text."""

    text: str
    length: int
    """Tokens of the whole text."""
    room: int
    """Tokens that the encoder reads."""
    read: str
    """The beginning of the text that is read: all of it if there is room."""

    @classmethod
    def of(cls, text: str, tokenizer: Any, words: Mapping[str, range] | None = None) -> Self:
        """words: new word -> the numbers of its tokens, as in models.prompts."""
        text = one_form(text)
        room, ends = tokenizer.model_max_length - MARKS, Tokens.of(tokenizer, text, words or {}).ends
        if len(ends) <= room:
            return cls(text, len(ends), room, text)
        # of a letter or a new word that is several tokens some may be read, but not what it means
        return cls(text, len(ends), room, text[: max((end for end in ends[:room] if end < ends[room]), default=0)])

    @property
    def cut(self) -> str:
        """What is cut off, from the first word that is not read as a whole; empty if all is read."""
        rest = self.text[len(self.read) :]
        begun = re.search(r"\w*$", self.read) if re.match(r"\w", rest) else None
        return f"{begun[0] if begun else ''}{rest}".strip()

    def loses(self, word: str) -> bool:
        """Whether `word` is written in the text, but not read."""
        return holds(self.text, word) and not holds(self.read, word)


def length_remarks(
    name: str,
    text: str,
    tokenizer: Any,
    tokens: Sequence[str] = (),
    words: Mapping[str, range] | None = None,
    what: str = "has",
) -> list[Remark]:
    """At most one remark, on a text that is longer than the text encoder reads, and on those of `tokens` it loses.

    name: what it is called. words: as in :class:`Reading`. what: the text's relation to what `name` names.
    """
    reading = Reading.of(text, tokenizer, words)
    if reading.length <= reading.room:
        return []
    problem = f"{what} {reading.length} tokens, of which the base reads {reading.room}"
    lost = " and ".join(repr(token) for token in dict.fromkeys(tokens) if reading.loses(token))
    remedy = f"shorten it: {brief(reading.cut)!r} is cut off"
    return [Remark(name, problem, f"{remedy}, and {lost} with it" if lost else remedy)]


def syntax_remarks(name: str, text: str, *, drawing: bool = False, weights: bool = False) -> list[Remark]:
    """Remarks on prompt syntax of other programs that does nothing here.

    name: what the text is called. drawing: whether it is a prompt for generation, which can have weights; weights:
    whether they are on.
    """
    found = []
    if match := _CALL.search(text):
        remedy = "remove it: training uses no other adapters"
        if drawing:
            strength = f":{match['strength']}" if match["strength"] else ""
            remedy = f"use the file instead: --adapter {match['file']}.safetensors{strength}"
        found.append(Remark(name, f"contains {brief(match[0])!r}, which is read as plain words", remedy))
    if not weights and (match := _WEIGHT.search(text)):
        remedy = "turn on prompt_weights (--prompt-weights) to apply it" if drawing else "write only the words"
        found.append(Remark(name, f"contains {brief(match[0])!r}, whose weight is ignored", remedy))
    if weights and (match := _EDIT.search(text)):
        remedy = "write what applies to all steps"
        found.append(Remark(name, f"contains {brief(match[0])!r}, but prompt editing is not supported", remedy))
    return found


def caption_remarks(
    photos: Sequence[Photo], tokenizer: Any, tokens: Sequence[str] = (), words: Mapping[str, range] | None = None
) -> list[Remark]:
    """Remarks on captions that are longer than the text encoder reads, or contain syntax of other programs."""
    return [
        remark
        for photo in photos
        for caption in photo.captions
        for remark in (
            *length_remarks(photo.file, caption, tokenizer, tokens, words, what="has a caption of"),
            *syntax_remarks(photo.file, caption),
        )
    ]


def brief(text: str) -> str:
    """The beginning of a text, to tell which one is meant."""
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1].rstrip()}…"
