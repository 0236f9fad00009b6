"""Adapter files as they are named on the command line: FILE or FILE:STRENGTH."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dreamtune.errors import ConfigError, IncompatibleModelError

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile, AttachedParts
    from dreamtune.models import Base


@dataclass(frozen=True)
class AdapterUse:
    """An adapter file and how strongly it is to act."""

    path: Path
    strength: float
    file: AdapterFile
    digest: str
    """SHA-256 of the file."""
    remarks: tuple[str, ...]
    """What was left out or assumed of another tool's file."""

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what FILE[:STRENGTH] names, also of another tool. Raises ConfigError and AdapterFileError."""
        from dreamtune.adapters.interop import read_adapter, tensor_file

        path, strength = parse(text)
        imported = read_adapter(path)
        digest = hashlib.sha256(tensor_file(path).read_bytes()).hexdigest()
        return cls(path, strength, imported.file, digest, tuple(f"{path.name}: {it}" for it in imported.remarks))

    @contextmanager
    def on(self, base: Base, any_base: bool = False) -> Iterator[AttachedParts]:
        """The adapter on the parts of `base`, with its word, for the length of the block, at its strength.

        Raises IncompatibleModelError that names the file; `any_base` allows other weights.
        """
        try:
            attached = base.put_on(self.file, self.strength, any_base=any_base)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{self.path}: {error}") from None
        with attached:
            if base.unet.dtype.itemsize >= 4:  # in half precision a small change would be lost in the weights
                attached.merge()  # the same change at no cost per step
            yield attached

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the folder."""
        return {"file": self.path.name, "strength": self.strength, "sha256": self.digest}


def base_name(adapters: Sequence[AdapterUse]) -> str:
    """The one base that the adapters were trained on, pocket without any; those that do not tell theirs do not count.

    Raises ConfigError when there are several, when none tells it, or when it is a folder or file that is not here.
    """
    telling = [adapter for adapter in adapters if adapter.file.base]
    names = sorted({adapter.file.base for adapter in telling}) or ["pocket"]
    if adapters and not telling:
        raise ConfigError(f"{adapters[0].path} does not tell which base it was trained on: name the base to use")
    if len(names) > 1:
        raise ConfigError(f"the adapters were trained on different bases ({', '.join(names)}): name the base to use")
    name = names[0]
    if name != "pocket" and "/" not in name and not Path(name).exists():
        raise ConfigError(
            f"{telling[0].path} was trained on the base {name!r}, a folder or file which is not here: "
            "give its path as base"
        )
    return name


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
