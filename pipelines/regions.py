"""Regions as they are named on the command line: FILE[:STRENGTH]@x0,y0,x1,y1=PROMPT."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from dreamtune.errors import ConfigError
from dreamtune.pipelines.adapter_use import AdapterUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreamtune.fusion.regions import Region
    from dreamtune.models import Base

_FORM = re.compile(r"(?P<file>.+?)@(?P<box>[^@=]*)=(?P<prompt>.*)", re.DOTALL)
SOFTNESS = 0.05
"""Width of a region's edges as a share of the picture."""
_MASK = 256
"""Side of masks in pixels; layers have fewer."""


@dataclass(frozen=True)
class RegionUse:
    """An adapter, where it is to act, and what is to be there."""

    use: AdapterUse
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in shares of the picture."""
    prompt: str

    @classmethod
    def load(cls, text: str) -> Self:
        """Read what FILE[:STRENGTH]@x0,y0,x1,y1=PROMPT names. Raises ConfigError and AdapterFileError."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ConfigError(f"the region {text!r} must be written FILE@x0,y0,x1,y1=PROMPT, in shares of the picture")
        try:
            x0, y0, x1, y1 = (float(number) for number in found["box"].split(","))
        except ValueError:
            raise ConfigError(f"the place {found['box']!r} of a region must be four numbers x0,y0,x1,y1") from None
        return cls(AdapterUse.load(found["file"]), (x0, y0, x1, y1), found["prompt"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.use.to_dict() | {"box": list(self.box), "prompt": self.prompt}


def make_regions(regions: Sequence[RegionUse], base: Base, any_base: bool) -> list[Region]:
    """The regions for `base`, each prompt read by its adapter's own text encoder and words.

    Raises ConfigError for boxes that are outside or empty, and IncompatibleModelError for other bases.
    """
    import torch

    from dreamtune.adapters.parts import UNET, split_part
    from dreamtune.adapters.targets import match_layers
    from dreamtune.fusion import Delta
    from dreamtune.fusion.regions import Region, box_mask

    found = []
    for region in regions:
        file, use = region.use.file, region.use
        mask = box_mask(region.box, (_MASK, _MASK), SOFTNESS)
        with ExitStack() as stack:
            stack.enter_context(use.on(base, any_base))
            embedding = base.condition([region.prompt])[0].embedding
            weights, factors = file.weights(base.parts), match_layers(list(file.layers), use.patterns, use.path.name)
        deltas = {}
        with torch.no_grad():
            for path, adapter in file.adapters().items():
                if split_part(path)[0] == UNET:
                    delta = Delta.of_adapter(adapter, weights[path]).scaled(use.strength * factors.get(path, 1.0))
                    deltas[path] = (delta.up.to(base.device), delta.down.to(base.device))
        found.append(Region(mask, embedding, deltas))
    return found
