"""Adapter files, and the strengths at which they are applied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dreamtune.errors import ConfigError, DreamtuneError, IncompatibleModelError
from dreamtune.pipelines.adapter_names import TEXT, Window, parse, pattern_of, split_window
from dreamtune.storage import open_regular
from dreamtune.text import shown

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile, AttachedParts
    from dreamtune.fusion import WeightedAdapter
    from dreamtune.models import Base

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class AdapterRef:
    """An adapter file and the strength at which it is applied."""

    path: Path
    strength: float
    file: AdapterFile
    digest: str
    """SHA-256 of the file."""
    remarks: tuple[str, ...]
    """What was skipped or assumed when reading another tool's file."""
    blocks: Mapping[str, float] = field(default_factory=dict)
    """Block of the UNet (down.0, mid, up.1, ...), or te for the text encoders -> an additional factor there."""
    window: Window | None = None
    """The part of the denoising steps in which it changes the UNet; all of them if None."""

    @classmethod
    def load(cls, text: str, *, windows: bool = False) -> Self:
        """Read what `text` names (see :func:`parse`), also of another tool. Raises ConfigError and AdapterFileError.

        windows: allow a step window, which makes sense only when images are generated.
        """
        from dreamtune.adapters.formats import read_adapter

        named, window = split_window(text)
        if window and not windows:
            raise ConfigError(f"{text!r} has a step window, which only `dreamtune generate` supports: omit it")
        if named[:1] in ("", ":"):
            raise ConfigError("empty adapter file name: use FILE or FILE:0.8, or FILE+FILE in a region")
        path, strength, blocks = parse(named)
        imported = read_adapter(path)
        remarks = tuple(f"{path.name}: {it}" for it in imported.remarks)
        return cls(path, strength, imported.file, digest_of(path), remarks, blocks, window)

    @property
    def name(self) -> str:
        """Name of its run if the file has the name that all runs use, else of the file."""
        return self.path.resolve().parent.name if self.path.name == "adapter.safetensors" else self.path.stem

    def scaled(self, factor: float) -> Self:
        """The same with `factor` times its strength."""
        return replace(self, strength=factor * self.strength)

    def acts(self, step: int, steps: int) -> bool:
        """Whether it changes the UNet at `step` (0, 1, ...) of `steps`, i.e. whether the step starts in its window."""
        return self.window is None or self.window[0] <= step / steps < self.window[1]

    def check_window(self, steps: int) -> None:
        """Raise ConfigError if none of `steps` starts in its window."""
        if not any(self.acts(step, steps) for step in range(steps)):
            start, stop = self.window or (0.0, 1.0)
            raise ConfigError(
                f"the step window {start:g}-{stop:g} of {self.path.name} contains none of the {steps} steps: widen it"
            )

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether it was trained with zero terminal SNR: pure noise at the last timestep."""
        return self.file.training.get("zero_terminal_snr") is True

    @property
    def as_trained(self) -> bool:
        """Whether it acts at strength 1 everywhere."""
        return self.strength == 1 and all(factor == 1 for factor in self.blocks.values())

    @property
    def patterns(self) -> dict[str, float]:
        """`blocks` by patterns on layer paths. Raises ConfigError for blocks where the adapter changes no layer."""
        found = {}
        for block, factor in self.blocks.items():
            pattern, what = pattern_of(block), "the text encoders" if block == TEXT else f"the block {block}"
            if not any(re.search(pattern, path) for path in self.file.layers):
                raise ConfigError(f"{self.path.name} changes nothing in {what}: omit that strength")
            found[pattern] = factor
        return found

    @property
    def ingredient(self) -> WeightedAdapter:
        """It as part of a fusion. Raises ConfigError as :attr:`patterns` does."""
        from dreamtune.fusion import WeightedAdapter

        return WeightedAdapter(self.path.name, self.file, self.strength, self.patterns)

    def check(self, base: Base, any_base: bool = False) -> None:
        """Check that it fits `base`. Raises IncompatibleModelError that names the file."""
        try:
            attached = self.file.attach_parts(base.parts, any_base=any_base)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{self.path}: {error}") from None
        for part in attached.values():
            part.detach()

    @contextmanager
    def on(self, base: Base, any_base: bool = False, *, merge: bool = True) -> Iterator[AttachedParts]:
        """The adapter on the parts of `base`, with its token, for the length of the block, at its strength.

        merge: write the change into the weights, where they are precise enough: it then costs nothing per step, but
        more when the strength changes. Raises IncompatibleModelError that names the file; `any_base` allows other
        weights.
        """
        try:
            attached = base.attach(self.file, self.strength, any_base=any_base)
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{self.path}: {error}") from None
        with attached:
            self._set_strengths(attached)
            if merge and base.unet.dtype.itemsize >= 4:  # in half precision a small change would be lost
                attached.merge()
            yield attached

    def _set_strengths(self, attached: AttachedParts) -> None:
        """Bring the factors of blocks to the parts that they are of. Raises ConfigError as :attr:`patterns` does."""
        unet = {pattern: factor for pattern, factor in self.patterns.items() if pattern != pattern_of(TEXT)}
        for name, part in attached.parts.items():
            if name != "unet" and TEXT in self.blocks:
                part.strengths = {"": self.blocks[TEXT]}  # which is found in every path
            elif name == "unet" and unet:
                part.strengths = unet

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the folder."""
        blocks = {"blocks": dict(self.blocks)} if self.blocks else {}
        window = {"window": list(self.window)} if self.window else {}
        return {"file": self.path.name, "strength": self.strength, "sha256": self.digest, **blocks, **window}


def drawn_by(base: Base, adapters: Sequence[AdapterRef]) -> Base:
    """`base` with the noise schedule that these adapters were trained with."""
    zero = any(adapter.zero_terminal_snr for adapter in adapters) and base.prediction_type == "v_prediction"
    return base.with_zero_terminal_snr() if zero else base


def noise_remarks(base: Base, adapters: Sequence[AdapterRef]) -> list[str]:
    """Remarks on adapters trained with another noise schedule than that of `base`, which is of :func:`drawn_by`."""
    zero = [it.path.name for it in adapters if it.zero_terminal_snr]
    rest = [it.path.name for it in adapters if it.file.layers and not it.zero_terminal_snr]
    if zero and not base.scheduler.config.get("rescale_betas_zero_snr"):
        return [f"trained with zero terminal SNR: {', '.join(zero)}; {base.id} predicts noise and cannot use it"]
    if zero and rest:
        return [
            f"trained with zero terminal SNR: {', '.join(zero)}; without: {', '.join(rest)}; all are sampled with it"
        ]
    return []


def digest_of(path: Path) -> str:
    """SHA-256 of the tensors' file of an adapter, which may be a folder. Raises AdapterFileError if there is none."""
    from dreamtune.adapters.formats import tensor_file

    with open_regular(tensor_file(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_name(adapters: Sequence[AdapterRef]) -> str:
    """The base that all adapters were trained on, pocket without any; adapters that do not record theirs are ignored.

    For a local folder or file, adapters record only the name. Its path comes from the run that an adapter lies in;
    otherwise it must be in the current folder. Load a hub model as `local`: no adapter file may trigger a download.
    Raises ConfigError for several bases, for none recorded, for one that is not here, and for a path.
    """
    telling = [adapter for adapter in adapters if adapter.file.base]
    names = sorted({adapter.file.base for adapter in telling}) or ["pocket"]
    if adapters and not telling:
        raise ConfigError(f"{adapters[0].path} does not record its base: set the base to use")
    if len(names) > 1:
        raise ConfigError(f"the adapters were trained on different bases ({', '.join(names)}): set the base to use")
    name = names[0]
    if not is_name(name):
        raise ConfigError(f"{telling[0].path} records the invalid base name {shown(name)}: use --base")
    if name == "pocket" or "/" in name:
        return name
    known = next(filter(None, (base_in_run(adapter.path, name) for adapter in telling)), None)
    if known is None and not Path(name).exists():
        raise ConfigError(
            f"{telling[0].path} was trained on the base {name!r}, a local folder or file that is not here: "
            "set base to its path"
        )
    return known or name


def is_name(base: str) -> bool:
    """Whether a base recorded in a file is a hub id or the name of a folder or file, not a path."""
    return _HUB_ID.fullmatch(base) is not None or (base == Path(base).name != ".." and not base.startswith("~"))


def base_in_run(path: Path, name: str) -> str | None:
    """Path of the base `name`, from the settings of the run that `path` belongs to; None if it is not there."""
    from dreamtune.pipelines.run_folder import RunFolder

    run = next((RunFolder(it) for it in path.absolute().parents[:3] if RunFolder(it).config.is_file()), None)
    if run is not None:
        with suppress(DreamtuneError):  # a damaged run: as if there were none
            base = run.read_config().base
            found = Path(base).expanduser()
            if found.exists() and name in (found.name, found.resolve().name):
                return base
    return None
