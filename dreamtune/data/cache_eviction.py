"""What the cache contains, and keeping it within its limit.

Below the cache's folder each kind of thing has a folder of its own. An entry is a file in it (perhaps in a folder of
two letters, which only keeps listings short), or the files of a folder that belong together, as class pictures do.
Its last use is the newest modification time in it: whoever uses an entry touches it.

$DREAMTUNE_CACHE may point at a folder that holds other things too. So only the kinds of :data:`KINDS` are looked into,
and of what lies there only what is named as dreamtune names it; nothing else is counted or removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from dreamtune.errors import ConfigError
from dreamtune.storage import cache_dir

LIMIT = 20 * 2**30
"""Bytes that the whole cache keeps, if $DREAMTUNE_CACHE_LIMIT does not say otherwise."""
HOUR, DAY = 3600.0, 86400.0
_STARTED = time.time()


@dataclass(frozen=True)
class Layout:
    """How the entries of a kind are named, as regular expressions for whole names."""

    file: str
    folder: str | None = None
    """Of the folders that the files lie in, below that of the kind; None if they lie in that itself."""
    together: bool = False
    """Whether the files of such a folder are one entry."""

    def has_file(self, name: str) -> bool:
        """Whether a file is of this kind: whole, or under the name that `storage.atomic` gives it until it is."""
        return re.fullmatch(rf"(?:{self.file})|\.(?:{self.file})\.[0-9a-f]{{8}}\.tmp", name) is not None

    def has_folder(self, name: str) -> bool:
        """Whether files of this kind may lie in a folder."""
        return self.folder is not None and re.fullmatch(self.folder, name) is not None


_BY_KEY = Layout(r"[0-9a-f]{64}\.safetensors", folder="[0-9a-f]{2}")
KINDS = {
    "latents": _BY_KEY,
    "prompts": _BY_KEY,
    "prior": Layout(r"\d{5,}\.(png|safetensors)|prior\.json", folder="[0-9a-f]{32}", together=True),
    "svd": Layout(r"[0-9a-f]{16}-(full|top\d+)-\d+\.safetensors"),
    "recordings": _BY_KEY,
}
"""All that dreamtune keeps in the cache: name of the folder -> names in it."""


@dataclass(frozen=True)
class Entry:
    """One thing in the cache that is kept or removed as a whole."""

    kind: str
    """Name of its folder, one of KINDS."""
    path: Path
    """Of its file, or of the folder of its files."""
    files: tuple[Path, ...]
    size: int
    """Bytes."""
    used: float
    """Time of the last use, in seconds since 1970."""

    def remove(self) -> bool:
        """Remove its files, and their folder if nothing else lies there; whether they are gone.

        A file that is read just now stays readable.
        """
        try:
            for file in self.files:
                file.unlink(missing_ok=True)  # another process may have been quicker
        except OSError:
            return False
        if self.path not in self.files:
            with contextlib.suppress(OSError):  # somebody's own file, or one that was written meanwhile
                self.path.rmdir()
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
        raise ConfigError(f"DREAMTUNE_CACHE_LIMIT = {text!r} is not a size: use e.g. 500MB or 20GB")
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
    """Whether it is a temporary file of one that writes, or was left by a kill."""
    return entry.path.name.startswith(".")


def _all(root: Path | None) -> list[Entry]:
    found: list[Entry] = []
    for kind, layout in KINDS.items():
        top = (root or cache_dir()) / kind
        folders = [str(top)]
        if layout.folder is not None:
            inner = [item for item in _scan(str(top)) if layout.has_folder(item.name)]
            folders = [item.path for item in inner if item.is_dir(follow_symlinks=False)]
        for folder in [] if top.is_symlink() else folders:
            items = [item for item in _scan(folder) if layout.has_file(item.name)]
            files = [item for item in items if item.is_file(follow_symlinks=False)]
            for group in [files] if layout.together else [[file] for file in files]:
                with contextlib.suppress(OSError):
                    states = [file.stat() for file in group]
                    if states:
                        size, used = sum(state.st_size for state in states), max(state.st_mtime for state in states)
                        path = folder if layout.together else group[0].path
                        found.append(Entry(kind, Path(path), tuple(Path(file.path) for file in group), size, used))
    return found


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError:
        return []
