"""Which images a call generates, and the sheet that compares them along one or two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from PIL import Image

from dreamtune.config import suggest
from dreamtune.errors import ConfigError
from dreamtune.models import Base
from dreamtune.names import GRID
from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.generate.config import SEEDS, GenerateConfig
from dreamtune.pipelines.generate.image_spec import ImageSpec, SamplingParams


@dataclass(frozen=True)
class Axis:
    """One axis of a grid."""

    name: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str, config: GenerateConfig) -> Axis:
        """Read NAME=VALUE,VALUE,...; values are checked as those of the settings. Raises ConfigError."""
        name, _, rest = text.partition("=")
        if name not in GRID:
            raise ConfigError(f"unknown axis in the grid {text!r}{suggest(name, list(GRID))}")
        words = [word.strip() for word in rest.split(",")]
        if not all(words):
            raise ConfigError(f"invalid grid {text!r}: use NAME=VALUE,VALUE,..., e.g. strength=0,0.5,1")
        if name == "strength":
            return cls(name, tuple(_strength(word, text) for word in words))
        return cls(name, tuple(getattr(config.changed(**{name: word}), name) for word in words))

    def label(self, value: Any) -> str:
        """The label of the column or row of `value`."""
        return f"{self.name} {value:g}" if isinstance(value, float) else f"{self.name} {value}"


def axes_of(config: GenerateConfig) -> list[Axis]:
    """The axes of the grid, that of the columns first. Raises ConfigError for invalid ones."""
    axes = [Axis.parse(text, config) for text in config.grid]
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise ConfigError(f"both axes of the grid are {names[0]}: put all its values into one")
    if "strength" in names and not config.adapters and all(region.startswith("@") for region in config.regions):
        raise ConfigError("the axis strength needs an adapter: add one, or use another axis")
    if "seed" in names and "n" in config.model_fields_set and config.n > 1:
        raise ConfigError("the axis seed already sets the images per prompt: omit n")
    return axes


def image_specs(config: GenerateConfig, axes: Sequence[Axis], base: Base) -> list[ImageSpec]:
    """All images, in the order of their numbers.

    Without axes, the images of each prompt follow one another, each with the next seed. With axes, there is a row for
    each prompt, value of the second axis and seed (the same seeds in all), and a column for each value of the first.

    Raises ConfigError if they need seeds beyond the largest.
    """
    count = config.n if axes else config.n * len(config.prompts)
    seeds = [config.seed] if any(axis.name == "seed" for axis in axes) else range(config.seed, config.seed + count)
    if seeds[-1] >= SEEDS:
        raise ConfigError(f"{count} images from seed {config.seed} on need seeds above {SEEDS - 1}: lower seed or n")
    steps, guidance, _ = config.sampling(base)
    plain = SamplingParams(steps, guidance, config.scheduler, config.denoised(steps), 1.0)
    if not axes:
        each = [prompt for prompt in config.prompts for _ in range(config.n)]
        return [ImageSpec(prompt, seed, plain) for prompt, seed in zip(each, seeds, strict=True)]
    across, down = _values(axes[0]), _values(axes[1]) if len(axes) > 1 else [{}]
    found = []
    for prompt, second, seed in product(config.prompts, down, seeds):
        parts = [prompt] if len(config.prompts) > 1 else []
        parts += [axes[1].label(value) for value in second.values()]
        parts += [f"seed {seed}"] if len(seeds) > 1 else []
        for first in across:
            values = {"seed": seed, **vars(plain), **second, **first}
            own = values.pop("seed")
            column = axes[0].label(next(iter(first.values())))
            found.append(ImageSpec(prompt, own, SamplingParams(**values), ", ".join(parts) or prompt, column))
    return found


def grid_sheet(specs: Sequence[ImageSpec], pictures: Sequence[Image.Image]) -> Image.Image:
    """The sheet of all images, which are in the order of the specs."""
    rows: dict[str, list[Image.Image]] = {}
    for spec, picture in zip(specs, pictures, strict=True):
        rows.setdefault(spec.row, []).append(picture)
    prompts = {spec.prompt for spec in specs}
    note = "" if len(prompts) > 1 or prompts == set(rows) else specs[0].prompt  # where no row names it
    return sheet(rows, list(dict.fromkeys(spec.column for spec in specs)), note)


def _values(axis: Axis) -> list[dict[str, Any]]:
    return [{axis.name: value} for value in axis.values]


def _strength(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"the strength {word!r} in the grid {text!r} is not a number")
    return value
