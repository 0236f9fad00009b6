"""What lies in the cache, and keeping it within its limit.

Below the cache's folder each kind of thing has a folder of its own. An entry is a file in it (perhaps in a folder of
two letters, which only keeps listings short), or a folder of files that belong together, as class pictures are.
Its last use is the newest modification time in it: whoever uses an entry touches it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamtune.errors import ConfigError
from dreamtune.storage import cache_dir

LIMIT = 20 * 2**30
"""Bytes that the whole cache keeps, if $DREAMTUNE_CACHE_LIMIT does not say otherwise."""
HOUR, DAY = 3600.0, 86400.0
_STARTED = time.time()


@dataclass(frozen=True)
class Entry:
    """One thing in the cache that is kept or removed as a whole."""

    kind: str
    """Name of its folder: latents, prompts, prior, svd."""
    path: Path
    size: int
    """Bytes."""
    used: float
    """Time of the last use, in seconds since 1970."""

    def remove(self) -> bool:
        """Remove it, whole for all processes at once; whether it is gone. One that is read just now stays readable."""
        try:
            if not self.path.is_dir():
                self.path.unlink()
                return True
            hidden = self.path.parent / f".{self.path.name}.{secrets.token_hex(4)}.tmp"
            self.path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        except FileNotFoundError:  # another process was quicker
            return True
        except OSError:
            return False
        return True


def limit() -> int:
    """Bytes that the cache may keep: $DREAMTUNE_CACHE_LIMIT ("500MB", "20G", a number of bytes), else LIMIT.

    Raises ConfigError if it cannot be understood.
    """
    text = os.environ.get("DREAMTUNE_CACHE_LIMIT", "").strip()
    if not text:
        return LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", text.upper())
    if not match:
        raise ConfigError(f"DREAMTUNE_CACHE_LIMIT = {text!r} is no size: write for example 500MB or 20GB")
    return int(float(match[1]) * 1024 ** ("KMGT".find(match[2]) + 1 if match[2] else 0))


def entries(root: Path | None = None) -> list[Entry]:
    """Everything in the cache, in no particular order; what other processes remove meanwhile is left out."""
    return [entry for entry in _all(root) if not _unfinished(entry)]


def make_room(root: Path | None = None) -> int:
    """Remove the longest unused entries until the rest is within :func:`limit`; return the bytes removed.

    Whatever was used since this process started, or within the last hour, stays even beyond the limit (but no
    process keeps an entry longer than a week by merely running on). What killed processes left half written goes
    after a day.
    """
    now = time.time()
    in_use = max(min(_STARTED, now - HOUR), now - 7 * DAY)
    bound = limit()
    total = freed = 0
    for entry in sorted(_all(root), key=lambda entry: entry.used, reverse=True):
        if _unfinished(entry):
            gone = entry.used < now - DAY and entry.remove()
        else:
            total += entry.size
            gone = total > bound and entry.used < in_use and entry.remove()
            total -= entry.size if gone else 0
        freed += entry.size if gone else 0
    return freed


def _unfinished(entry: Entry) -> bool:
    """Whether it is a temporary file of one that writes, or a folder of one that removes, or was left by a kill."""
    return entry.path.name.startswith(".")


def _all(root: Path | None) -> list[Entry]:
    found: list[Entry] = []
    for kind in _folders(root or cache_dir()):
        for item in _scan(kind.path):
            shard = item.is_dir() and len(item.name) == 2
            for thing in _scan(item.path) if shard else [item]:
                with contextlib.suppress(OSError):
                    files = [entry.stat() for entry in _files(thing)]
                    if files:
                        size, used = sum(file.st_size for file in files), max(file.st_mtime for file in files)
                        found.append(Entry(kind.name, Path(thing.path), size, used))
    return found


def _folders(root: Path) -> Iterator[os.DirEntry[str]]:
    return (item for item in _scan(str(root)) if item.is_dir(follow_symlinks=False))


def _files(item: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    """The file itself, or all files below a folder."""
    if not item.is_dir(follow_symlinks=False):
        yield item
        return
    for inner in _scan(item.path):
        yield from _files(inner)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError:
        return []
