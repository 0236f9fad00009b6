"""One image to generate: its prompt, seed, sampling and layout."""

from __future__ import annotations

from dataclasses import dataclass

from dreamtune.pipelines.generate.regions import RegionUse


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the subjects of one image are."""

    asked: str
    """The prompt as given. Outside the regions, the same prompt with classes in place of subjects is used."""
    regions: tuple[RegionUse, ...]
    remark: str = ""
    """What the user should know about it."""


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings of an image, besides its prompt and seed."""

    steps: int
    guidance: float
    scheduler: str
    denoise: float
    """Share of the steps that are run; 1 without an init image."""
    strength: float
    """Factor on the strengths of all adapters."""


@dataclass(frozen=True)
class ImageSpec:
    """One image to generate, and the labels of its row and column on the sheet."""

    prompt: str
    seed: int
    sampling: SamplingParams
    row: str = ""
    column: str = ""
    layout: Layout | None = None
    """Where its subjects are, if that was found in a draft."""
