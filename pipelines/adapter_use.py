"""Adapter files as they are named on the command line: FILE or FILE:STRENGTH."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dreamtune.errors import ConfigError

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile


@dataclass(frozen=True)
class AdapterUse:
    """An adapter file and how strongly it is to act."""

    path: Path
    strength: float
    file: AdapterFile
    digest: str
    """SHA-256 of the file."""

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what FILE[:STRENGTH] names. Raises ConfigError and AdapterFileError."""
        from dreamtune.adapters import AdapterFile

        path, strength = parse(text)
        file = AdapterFile.load(path)
        return cls(path, strength, file, hashlib.sha256(path.read_bytes()).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the folder."""
        return {"file": self.path.name, "strength": self.strength, "sha256": self.digest}


def parse(text: str) -> tuple[Path, float]:
    """Split FILE[:STRENGTH], strength 1 if there is none; an existing file whose name is all of `text` goes first.

    Raises ConfigError for a strength that is no finite number.
    """
    whole = Path(text).expanduser()
    name, colon, number = text.rpartition(":")
    if not colon or whole.exists():
        return whole, 1.0
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    path = Path(name).expanduser()
    if math.isfinite(strength):
        return path, strength
    if path.exists():
        raise ConfigError(f"the strength {number!r} of {path} is not a number: write {name}:0.8, or {name} alone")
    return whole, 1.0  # a colon of the file's name; loading it says that it is not there
