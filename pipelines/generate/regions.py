"""Regions as they are named on the command line: FILE[:STRENGTH][+FILE...]@x0,y0,x1,y1=PROMPT, or @mask.png=PROMPT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.parts import UNET, split_part
from dreamtune.data.named import named_mask
from dreamtune.errors import ConfigError
from dreamtune.fusion import changes
from dreamtune.fusion.layer_deltas import added
from dreamtune.generation.masks import box_mask, softened
from dreamtune.generation.regions import Region
from dreamtune.models import Base
from dreamtune.pipelines.adapter_names import parse, split_window
from dreamtune.pipelines.adapter_ref import AdapterRef

_FORM = re.compile(r"(?P<files>.*?)@(?:box=)?(?P<place>[^@=]*)=(?P<prompt>.*)", re.DOTALL)
_SIDE = 256
"""Side of masks in pixels; layers have fewer."""


@dataclass(frozen=True)
class Painted:
    """A mask image: white is the region."""

    path: Path
    image: Image
    """L"""
    digest: str
    """SHA-256 of the file."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"mask": {"file": self.path.name, "sha256": self.digest}}


@dataclass(frozen=True)
class RegionUse:
    """Adapters, the place where they act, and the prompt of that place."""

    uses: tuple[AdapterRef, ...]
    place: tuple[float, float, float, float] | Painted
    """Left, top, right and bottom as fractions of the image, or a mask."""
    prompt: str

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what `text` names. Raises ConfigError and AdapterFileError."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"invalid region {text!r}: use FILE@x0,y0,x1,y1=PROMPT with fractions of the image, or "
                "FILE@mask.png=PROMPT"
            )
        place = _place(found["place"])
        uses = tuple(AdapterRef.load(file, windows=True) for file in _split(found["files"]))
        return cls(uses, place, found["prompt"])

    def mask(self, softness: float) -> Tensor:
        """(h, w) mask of the region, its edges softened over that share of the image. Raises what box_mask does."""
        if not isinstance(self.place, Painted):
            return box_mask(self.place, (_SIDE, _SIDE), softness)
        small = self.place.image.resize((_SIDE, _SIDE), Resampling.BOX)
        return softened(torch.from_numpy(np.asarray(small, dtype=np.float32) / 255), softness)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of its place as fractions of the image."""
        if not isinstance(self.place, Painted):
            return self.place
        width, height = self.place.image.size
        x0, y0, x1, y1 = self.place.image.point([255 * (value > 127) for value in range(256)]).getbbox() or (
            *(0, 0),
            *self.place.image.size,
        )
        return x0 / width, y0 / height, x1 / width, y1 / height

    def scaled(self, factor: float) -> Self:
        """The same with `factor` times the strength of its adapters."""
        return type(self)(tuple(use.scaled(factor) for use in self.uses), self.place, self.prompt)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        place = self.place.to_dict() if isinstance(self.place, Painted) else {"box": list(self.place)}
        return {"adapters": [use.to_dict() for use in self.uses], **place, "prompt": self.prompt}


@dataclass(frozen=True, eq=False)
class Placed:
    """A region on a base."""

    use: RegionUse
    region: Region
    parts: Sequence[Mapping[str, Delta]]
    """Changes of each of its adapters: layer path in the UNet -> ΔW, at its strength."""

    def deltas(self, step: int, steps: int) -> Mapping[str, Delta]:
        """What those change that act at `step` of `steps`."""
        return _summed([part for use, part in zip(self.use.uses, self.parts, strict=True) if use.acts(step, steps)])


def place_regions(
    regions: Sequence[RegionUse],
    masks: Sequence[Tensor],
    base: Base,
    *,
    any_base: bool = False,
    prompt_weights: bool = False,
) -> list[Placed]:
    """The regions on `base`, each prompt encoded with its adapters' text encoder changes and tokens.

    Raises IncompatibleModelError for other bases.
    """
    found = []
    for use, mask in zip(regions, masks, strict=True):
        with ExitStack() as stack:
            for adapter in use.uses:
                stack.enter_context(adapter.on(base, any_base, merge=False))
            told = base.condition([use.prompt], weights=prompt_weights)[0]
            parts = [_changes(adapter, base) for adapter in use.uses]
        found.append(Placed(use, Region(mask, told.embedding, _summed(parts), told.pooled), parts))
    return found


def _changes(use: AdapterRef, base: Base) -> dict[str, Delta]:
    change = changes(use.ingredient, use.file.layers, use.file.weights(base.parts))
    found = {path: change(path) for path in use.file.layers if split_part(path)[0] == UNET}
    return {path: delta.scaled(strength) for path, (strength, delta) in found.items()}


def _summed(parts: Sequence[Mapping[str, Delta]]) -> dict[str, Delta]:
    paths = dict.fromkeys(path for part in parts for path in part)
    return {path: added([part[path] for part in parts if path in part]) for path in paths}


def _place(text: str) -> tuple[float, float, float, float] | Painted:
    path = Path(text).expanduser()
    if path.suffix and path.exists():
        return Painted(path, *named_mask(path))
    try:
        x0, y0, x1, y1 = (float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"invalid region box {text!r}: use four numbers x0,y0,x1,y1, or an existing mask image"
        ) from None
    return x0, y0, x1, y1


def _split(text: str) -> list[str]:
    """FILE+FILE: the names and strengths of several files, whose names may have a + themselves; none of empty text."""
    found, held = list[str](), ""
    for piece in text.split("+") if text else []:
        held = f"{held}+{piece}" if held else piece
        if parse(split_window(held)[0])[0].exists():
            found.append(held)
            held = ""
    return [*found, held] if held else found  # loading what is not there says so
