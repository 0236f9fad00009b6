"""Regular expressions on layer paths, which users, files and clients give: matched in bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache

import regex

from dreamtune.errors import ConfigError

LONGEST = 1000
"""Characters of a pattern. A list of every layer of a base as `a|b|c` is a setting of another kind."""
_PLAIN = re.compile(r"[\w.]+")
_COUNT = regex.compile(r"\{(\d*)(?:,(\d*))?\}")
_MOST_COUNTS, _LARGEST_COUNT = 3, 32
"""Counted repeats are written out when a pattern is compiled, which no time limit ends."""
SECONDS = 5.0
"""Time for all of the searches of one :class:`Matcher`: a thousand times what a pattern of a known tool takes."""


class Matcher:
    """Searches for patterns in layer paths, all of them together within `seconds`.

    A few characters can make Python's own `re` search for years, and nothing can interrupt it. `regex` reads the same
    language and stops when it is told to.
    """

    def __init__(self, name: str, seconds: float = SECONDS) -> None:
        """name: of the setting that the patterns are in, for errors."""
        self.name, self._left = name, seconds

    def check(self, pattern: str) -> None:
        """Raises ConfigError for what is no regular expression, or too long."""
        self._compiled(pattern)

    def found(self, pattern: str, path: str) -> bool:
        """Whether `pattern` is found in `path`. Raises ConfigError as :meth:`check` does, and when time is up."""
        return self._run(pattern, self._compiled(pattern).search, path)

    def ends(self, pattern: str, path: str) -> bool:
        """Whether `pattern` is `path` or the end of it behind a dot, which is PEFT's rule; otherwise as `found`."""
        if _PLAIN.fullmatch(pattern):  # as nearly all are; a file may have one for each of a thousand layers
            return _ends_plainly(pattern, path)
        self.check(pattern)
        return self._run(pattern, self._compiled(rf"(.*\.)?({pattern})$", wrapped=True).match, path)

    def _compiled(self, pattern: str, wrapped: bool = False) -> regex.Pattern[str]:
        if not wrapped and len(pattern) > LONGEST:
            raise ConfigError(f"{self.name}: a pattern of {len(pattern)} characters is too long: use at most {LONGEST}")
        counts = [number for count in _COUNT.findall(pattern) for number in count if number]
        if len(counts) > _MOST_COUNTS or any(len(n) > 2 or int(n) > _LARGEST_COUNT for n in counts):
            raise ConfigError(f"{self.name}: {_shown(pattern)} repeats too much: use * or + in place of {{...}}")
        try:
            return _compile(pattern)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            raise ConfigError(f"{self.name}: {_shown(pattern)} is not a valid regular expression ({error})") from None

    def _run(self, pattern: str, search: Callable[..., object], path: str) -> bool:
        begin = time.monotonic()
        try:
            return search(path, timeout=max(self._left, 1e-3)) is not None
        except TimeoutError:
            raise ConfigError(
                f"{self.name}: matching {_shown(pattern)} takes too long: write it without nested repeats"
            ) from None
        finally:
            self._left -= time.monotonic() - begin


def _ends_plainly(pattern: str, path: str) -> bool:
    """:meth:`Matcher.ends` for a pattern of letters, digits, _ and dots, each of which stands for any character."""
    before, end = path[: -len(pattern)], path[-len(pattern) :]
    if len(end) < len(pattern) or (before and not before.endswith(".")):
        return False
    return end == pattern or all(a in (b, ".") for a, b in zip(pattern, end, strict=True))


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.V0)


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else f"{pattern[:77]}...")
