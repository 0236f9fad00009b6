"""Settings of `analyze`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dreamtune.config import Config


class AnalyzeConfig(Config):
    """What to compare, and how."""

    adapters: tuple[str, ...] = Field(min_length=1, max_length=100)
    """Adapter files, of any known tool; one alone gives its health, and no pairs."""
    subjects: tuple[str, ...] = ()
    """A name of each adapter's subject, in the same order: those that have the same are seeds of one subject, whose
    overlap is the ceiling for the others."""
    base: str = "auto"
    """Base model; auto is the one that the adapters were trained on."""
    any_base: bool = False
    """Put adapters on a base with other weights than the one they were trained on."""
    layers: str = ""
    """Only layers in whose path this regular expression is found."""
    blocks: tuple[Literal["down", "mid", "up", "text"], ...] = ()
    """Only layers of these parts of the UNet, or of the text encoders."""
    trajectories: tuple[str, ...] = ()
    """Run folders of trainings with `track_tsd`: how early their directions agreed with those of each adapter here, for
    example of full fine-tuning."""
    top_k: int = Field(default=8, ge=1, le=64)
    """How many directions make up a layer's list."""
    interference: bool = True
    """Draw a picture with each adapter, and forecast from what its layers see how much the others disturb it."""
    timestep_profile: bool = False
    """Also show at which steps of the drawing each adapter acts."""
    steps: int = Field(default=6, ge=1, le=999)
    """Denoising steps of the recorded drawing."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of its noise."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to draw; the decompositions are computed on the CPU always."""
