"""Listing and clearing the cache."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamtune.errors import ConfigError
from dreamtune.storage import cache_dir

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@dataclass(frozen=True)
class KindUse:
    """All entries of one kind: latents, prompts, prior (class images), svd (singular vectors) or recordings."""

    kind: str
    entries: int
    size: int
    """Bytes."""
    oldest: float
    """Days since the least recently used entry was used."""
    newest: float
    """Days since the most recently used entry was used."""


@dataclass(frozen=True)
class CacheUse:
    """What the cache holds."""

    folder: Path
    limit: int
    """Bytes beyond which the least recently used entries are evicted."""
    kinds: tuple[KindUse, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(kind.size for kind in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kinds = [vars(kind) | {"oldest": round(kind.oldest, 3), "newest": round(kind.newest, 3)} for kind in self.kinds]
        return {"folder": str(self.folder), "size": self.size, "limit": self.limit, "kinds": kinds}


@dataclass(frozen=True)
class Cleared:
    """What was removed."""

    entries: int
    size: int
    """Bytes."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self)


def list_cache() -> CacheUse:
    """Kinds, sizes and ages of everything in the cache. Raises ConfigError for an invalid limit."""
    from dreamtune.data import cache_eviction

    now = time.time()
    kinds: dict[str, list[cache_eviction.Entry]] = {}
    for entry in cache_eviction.entries():
        kinds.setdefault(entry.kind, []).append(entry)
    uses = []
    for kind, entries in sorted(kinds.items()):
        ages = [max(0.0, now - entry.used) / _SECONDS["d"] for entry in entries]
        uses.append(KindUse(kind, len(entries), sum(entry.size for entry in entries), max(ages), min(ages)))
    return CacheUse(cache_dir(), cache_eviction.limit(), tuple(uses))


def clear_cache(kind: str | None = None, older_than: str | None = None) -> Cleared:
    """Remove every entry from the cache, or only one kind, or only what was not used for a time like "30d" or "12h".

    A running process recomputes what it still needs; other programs' files in the folder stay. Raises ConfigError for a
    kind that is not there, an invalid duration, and entries that cannot be deleted.
    """
    from dreamtune.data import cache_eviction

    everything = cache_eviction.entries()
    known = sorted({entry.kind for entry in everything})
    if kind is not None and kind not in known:
        have = ", ".join(known) or "nothing"
        raise ConfigError(f"no {kind!r} entries in the cache {cache_dir()}; it has {have}")
    before = time.time() - _duration(older_than) if older_than is not None else None
    chosen = [
        entry
        for entry in everything
        if (kind is None or entry.kind == kind) and (before is None or entry.used < before)
    ]
    gone = [entry for entry in chosen if entry.remove()]
    if len(gone) < len(chosen):
        raise ConfigError(f"cannot delete {len(chosen) - len(gone)} entries of {cache_dir()}: check its permissions")
    return Cleared(len(gone), sum(entry.size for entry in gone))


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip().lower())
    if not match:
        raise ConfigError(f"invalid duration {text!r}: use e.g. 30d, 12h or 2w")
    return float(match[1]) * _SECONDS[match[2]]
