"""Finding words in texts, by one rule for all callers. Imports nothing heavy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection


def one_form(text: str) -> str:
    """The text in Unicode's composed form (NFC), as tokenizers read it: "é" may be one character or two."""
    return unicodedata.normalize("NFC", text)


def forms(text: str) -> tuple[str, ...]:
    """The text as it is and in Unicode's other forms, each once: copying may have changed that of a file's name."""
    return tuple(dict.fromkeys((text, one_form(text), unicodedata.normalize("NFD", text))))


def places(text: str, words: Collection[str]) -> list[tuple[int, int]]:
    """Where a text contains one of `words` as a separate word, ignoring case: (start, end) in order.

    A word is one of its own where no letter, digit, underscore or combining mark goes on at either side of it; beside
    punctuation, as at both ends of "<sks>", anything may stand. Both must be in one form, see :func:`one_form`.
    """
    if not words:
        return []
    pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)), re.IGNORECASE)
    found: list[tuple[int, int]] = []
    start = 0
    while match := pattern.search(text, start):
        begin, end = match.span()
        whole = not (_joined(text[begin - 1 : begin], text[begin]) or _joined(text[end - 1], text[end : end + 1]))
        if whole:
            found.append((begin, end))
        start = end if whole else begin + 1
    return found


def holds(text: str, word: str) -> bool:
    """Whether a text contains `word` as a separate word; see :func:`places`."""
    return bool(places(one_form(text), [one_form(word)]))


def replaced(text: str, word: str, by: str) -> str:
    """The text, in one form, with `by` in place of `word` wherever that is a separate word."""
    text, found, done = one_form(text), "", 0
    for start, end in places(text, [one_form(word)]):
        found, done = found + text[done:start] + by, end
    return found + text[done:]


def same(first: str, second: str) -> bool:
    """Whether two words are the same by this rule."""
    return re.fullmatch(re.escape(one_form(first)), one_form(second), re.IGNORECASE) is not None


def _joined(left: str, right: str) -> bool:
    """Whether a word goes on from the character `left` to `right`; either may be empty, at an end of the text."""
    if right and unicodedata.category(right).startswith("M"):
        return True  # a mark that no composed character has belongs to what it stands on
    return all(re.match(r"\w", side) or (side and unicodedata.category(side).startswith("M")) for side in (left, right))
