"""Adapter files as they are named on the command line: FILE[:STRENGTH[,BLOCK=STRENGTH...]][@START-STOP]."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dreamtune.errors import ConfigError, DreamtuneError, IncompatibleModelError

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile, AttachedParts
    from dreamtune.fusion import Ingredient
    from dreamtune.models import Base

_BLOCK = re.compile(r"(down|up)\.\d+|mid")
"""Blocks of a UNet as they are named on the command line."""
_WINDOW = re.compile(r"(?P<start>\d*\.?\d+)-(?P<stop>\d*\.?\d+)")
Window = tuple[float, float]
"""Shares of a generation's steps: where an adapter begins to act, and where it ends."""


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
    window: Window | None = None
    """The part of a generation in which it changes the UNet; all of it if None."""

    @classmethod
    def load(cls, text: str, *, windows: bool = False) -> Self:
        """Read what `text` names (see :func:`parse`), also of another tool. Raises ConfigError and AdapterFileError.

        windows: allow a window of steps, which has a meaning where pictures are drawn.
        """
        from dreamtune.adapters.interop import read_adapter

        named, window = split_window(text)
        if window and not windows:
            raise ConfigError(f"{text!r} has a window of steps, which only `dreamtune generate` knows: leave it out")
        if named[:1] in ("", ":"):
            raise ConfigError("the name of an adapter file is empty: write FILE or FILE:0.8, in a region FILE+FILE")
        path, strength, blocks = parse(named)
        imported = read_adapter(path)
        remarks = tuple(f"{path.name}: {it}" for it in imported.remarks)
        return cls(path, strength, imported.file, digest_of(path), remarks, blocks, window)

    def scaled(self, factor: float) -> Self:
        """The same with `factor` times its strength."""
        return replace(self, strength=factor * self.strength)

    def acts(self, step: int, steps: int) -> bool:
        """Whether it changes the UNet at `step` (0, 1, ...) of `steps`: that begins within its window."""
        return self.window is None or self.window[0] <= step / steps < self.window[1]

    def check_window(self, steps: int) -> None:
        """Raise ConfigError if none of `steps` begins within its window."""
        if not any(self.acts(step, steps) for step in range(steps)):
            start, stop = self.window or (0.0, 1.0)
            raise ConfigError(
                f"the window {start:g}-{stop:g} of {self.path.name} holds none of the {steps} steps: widen it"
            )

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

    @property
    def ingredient(self) -> Ingredient:
        """It as part of a fusion. Raises ConfigError as :attr:`patterns` does."""
        from dreamtune.fusion import Ingredient

        return Ingredient(self.path.name, self.file, self.strength, self.patterns)

    def check(self, base: Base, any_base: bool = False) -> None:
        """Make certain that it fits `base`. Raises IncompatibleModelError that names the file."""
        try:
            attached = self.file.attach_parts(base.parts, any_base=any_base)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{self.path}: {error}") from None
        for part in attached.values():
            part.detach()

    @contextmanager
    def on(self, base: Base, any_base: bool = False, *, merge: bool = True) -> Iterator[AttachedParts]:
        """The adapter on the parts of `base`, with its word, for the length of the block, at its strength.

        merge: write the change into the weights, where they are precise enough: it then costs nothing per step, but
        more when the strength changes. Raises IncompatibleModelError that names the file; `any_base` allows other
        weights.
        """
        try:
            attached = base.put_on(self.file, self.strength, any_base=any_base)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{self.path}: {error}") from None
        with attached:
            if self.blocks:
                attached.parts["unet"].strengths = self.patterns
            if merge and base.unet.dtype.itemsize >= 4:  # in half precision a small change would be lost
                attached.merge()
            yield attached

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the folder."""
        blocks = {"blocks": dict(self.blocks)} if self.blocks else {}
        window = {"window": list(self.window)} if self.window else {}
        return {"file": self.path.name, "strength": self.strength, "sha256": self.digest, **blocks, **window}


def digest_of(path: Path) -> str:
    """SHA-256 of the tensors' file of an adapter, which may be a folder. Raises AdapterFileError if there is none."""
    from dreamtune.adapters.interop import tensor_file

    return hashlib.sha256(tensor_file(path).read_bytes()).hexdigest()


def text_of(path: Path, told: Mapping[str, Any]) -> str:
    """How to name the adapter file `path` to be used as `told`, which is of :meth:`AdapterUse.to_dict`."""
    blocks = "".join(f",{block}={factor!r}" for block, factor in told.get("blocks", {}).items())
    window = "@{!r}-{!r}".format(*told["window"]) if "window" in told else ""
    return f"{path}:{told['strength']!r}{blocks}{window}"


def base_name(adapters: Sequence[AdapterUse]) -> str:
    """The one base that the adapters were trained on, pocket without any; those that do not tell theirs do not count.

    Of a folder or file adapters tell the name alone; its path is taken from the run that an adapter lies in, or else it
    must be in the current folder. Raises ConfigError when there are several, when none tells it, or when it is not
    there.
    """
    telling = [adapter for adapter in adapters if adapter.file.base]
    names = sorted({adapter.file.base for adapter in telling}) or ["pocket"]
    if adapters and not telling:
        raise ConfigError(f"{adapters[0].path} does not tell which base it was trained on: name the base to use")
    if len(names) > 1:
        raise ConfigError(f"the adapters were trained on different bases ({', '.join(names)}): name the base to use")
    name = names[0]
    if name == "pocket" or "/" in name:
        return name
    known = next(filter(None, (base_in_run(adapter.path, name) for adapter in telling)), None)
    if known is None and not Path(name).exists():
        raise ConfigError(
            f"{telling[0].path} was trained on the base {name!r}, a folder or file which is not here: "
            "give its path as base"
        )
    return known or name


def base_in_run(path: Path, name: str) -> str | None:
    """Where the base `name` is, by the settings of the run whose adapter or checkpoint `path` is; None if not there."""
    from dreamtune.pipelines.run_folder import RunFolder

    run = next((RunFolder(it) for it in path.absolute().parents[:3] if RunFolder(it).config.is_file()), None)
    if run is not None:
        with suppress(DreamtuneError):  # a damaged run: as if there were none
            base = run.read_config().base
            found = Path(base).expanduser()
            if found.exists() and name in (found.name, found.resolve().name):
                return base
    return None


def split_window(text: str) -> tuple[str, Window | None]:
    """Split the window off FILE...[@START-STOP]; an existing file whose name is all of `text` goes first.

    Raises ConfigError for a window that is written in another way, is empty or goes beyond 0 and 1.
    """
    name, at, window = text.rpartition("@")
    if not at or Path(text).expanduser().exists() or not parse(name)[0].exists():
        return text, None  # without a file of that name, loading it says that it is not there
    found = _WINDOW.fullmatch(window)
    start, stop = (float(found["start"]), float(found["stop"])) if found else (0.0, 0.0)
    if not 0 <= start < stop <= 1:
        raise ConfigError(
            f"{window!r} of {name} is no window of steps: write for example @0.0-0.7 for the first 70 % of them"
        )
    return name, (start, stop)


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
