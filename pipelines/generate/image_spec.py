"""One picture that is to be drawn: its prompt, seed, sampling and layout."""

from __future__ import annotations

from dataclasses import dataclass

from dreamtune.pipelines.generate.regions import RegionUse


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the subjects of one picture are."""

    asked: str
    """The prompt that was given. What draws outside of the regions is that with any of each class."""
    regions: tuple[RegionUse, ...]
    remark: str = ""
    """What the user should know of it."""


@dataclass(frozen=True)
class SamplingParams:
    """How a picture is drawn, besides its prompt and seed."""

    steps: int
    guidance: float
    scheduler: str
    denoise: float
    """Share of the steps that are done; 1 without a picture to start from."""
    strength: float
    """A factor on the strength of all adapters."""


@dataclass(frozen=True)
class ImageSpec:
    """One picture to draw, and what stands at its row and column of the sheet."""

    prompt: str
    seed: int
    sampling: SamplingParams
    row: str = ""
    column: str = ""
    layout: Layout | None = None
    """Where its subjects are, if that was found in a draft."""
