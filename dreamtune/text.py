"""Makes foreign text (names, captions, headers, messages) safe to show: inert and not too long."""

from __future__ import annotations

import reprlib
import unicodedata

LONGEST = 1000
"""Characters of a message that is shown."""
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""They form letters and emoji, and move nothing."""
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what does something instead of being seen, and of halves of characters."""


def inert(text: str) -> str:
    r"""`text` with every character that a terminal would obey, or that turns others around, as \x1b or \u202e.

    Line feeds stay; whether there may be several lines is for who builds the text.
    """
    if text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _acts(char) else char for char in text)


def bounded(text: str, longest: int = LONGEST) -> str:
    """`text` in at most `longest` characters: of a longer one the middle is left out, since advice is at its end."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 5]} ... {text[len(text) - end :]}"


def shown(value: object) -> str:
    """A value as Python writes it, in at most 200 characters whatever it is."""
    return bounded(_SHORT.repr(value), 200)


def _acts(char: str) -> bool:
    return char not in "\n" + _JOINERS and unicodedata.category(char) in _UNSAFE


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out one of 4,300 digits
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 120, 120, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 4
