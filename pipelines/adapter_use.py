"""Adapter files as they are named on the command line: FILE, FILE:STRENGTH or FILE:STRENGTH,BLOCK=STRENGTH."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dreamtune.errors import ConfigError, IncompatibleModelError

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile, AttachedParts
    from dreamtune.models import Base

_BLOCK = re.compile(r"(down|up)\.\d+|mid")
"""Blocks of a UNet as they are named on the command line."""


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
    blocks: Mapping[str, float] = field(default_factory=dict)
    """Block of the UNet (down.0, mid, up.1, ...) -> a further factor there."""

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what `text` names (see :func:`parse`), also of another tool. Raises ConfigError and AdapterFileError."""
        from dreamtune.adapters.interop import read_adapter, tensor_file

        path, strength, blocks = parse(text)
        imported = read_adapter(path)
        digest = hashlib.sha256(tensor_file(path).read_bytes()).hexdigest()
        remarks = tuple(f"{path.name}: {it}" for it in imported.remarks)
        return cls(path, strength, imported.file, digest, remarks, blocks)

    @property
    def as_trained(self) -> bool:
        """Whether it acts at strength 1 everywhere."""
        return self.strength == 1 and all(factor == 1 for factor in self.blocks.values())

    @property
    def patterns(self) -> dict[str, float]:
        """`blocks` by patterns on layer paths. Raises ConfigError for blocks where the adapter changes no layer."""
        found = {}
        for block, factor in self.blocks.items():
            name, _, number = block.partition(".")
            pattern = rf"^{name}_blocks\.{number}\." if number else rf"^{name}_block\."
            if not any(re.search(pattern, path) for path in self.file.layers):
                raise ConfigError(f"{self.path.name} changes nothing in the block {block}: leave its strength out")
            found[pattern] = factor
        return found

    def check(self, base: Base, any_base: bool = False) -> None:
        """Make certain that it fits `base`. Raises IncompatibleModelError that names the file."""
        try:
            attached = self.file.attach_parts(base.parts, any_base=any_base)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{self.path}: {error}") from None
        for part in attached.values():
            part.detach()

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
            if self.blocks:
                attached.parts["unet"].strengths = self.patterns
            if base.unet.dtype.itemsize >= 4:  # in half precision a small change would be lost in the weights
                attached.merge()  # the same change at no cost per step
            yield attached

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the folder."""
        blocks = {"blocks": dict(self.blocks)} if self.blocks else {}
        return {"file": self.path.name, "strength": self.strength, "sha256": self.digest, **blocks}


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


def parse(text: str) -> tuple[Path, float, dict[str, float]]:
    """Split FILE[:STRENGTH][,BLOCK=STRENGTH...]: strength 1 if there is none; block (down.0, mid, up.1) -> factor.

    An existing file whose name is all of `text` goes first. Raises ConfigError for a strength that is no finite number.
    """
    whole = Path(text).expanduser()
    name, colon, numbers = text.rpartition(":")
    if not colon or whole.exists():
        return whole, 1.0, {}
    path, strength, blocks = Path(name).expanduser(), 1.0, dict[str, float]()
    for index, item in enumerate(numbers.split(",")):
        block, equals, number = item.strip().rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and _BLOCK.fullmatch(block):
            blocks[block] = value
        elif math.isfinite(value) and not equals and not index:
            strength = value
        elif path.exists() and not math.isfinite(value):
            raise ConfigError(f"the strength {number!r} of {path} is not a number: write {name}:0.8, or {name} alone")
        elif path.exists():
            raise ConfigError(f"{item!r} of {path} is no block with a strength: write down.0=0.5, mid=0.5 or up.1=0.5")
        else:
            return whole, 1.0, {}  # a colon of the file's name; loading it says that it is not there
    return path, strength, blocks
