"""Settings of `analyze`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dreamtune.config import Config


class AnalyzeConfig(Config):
    """What to compare, and how."""

    adapters: tuple[str, ...] = Field(min_length=1, max_length=100)
    """Adapter files of any supported tool. A single file gets a health report without pairs."""
    subjects: tuple[str, ...] = ()
    """Name of each file's subject, in their order. Files with the same name count as seeds of one subject; their
    overlap is the ceiling for the others."""
    base: str = "auto"
    """Base model. auto: the one the adapters were trained on."""
    any_base: bool = False
    """Allow a base whose weights differ from the one the adapters were trained on."""
    layers: str = ""
    """Only layers whose path matches this regular expression."""
    blocks: tuple[Literal["down", "mid", "up", "text"], ...] = ()
    """Only these parts: down, mid, up or text. May be given several times."""
    trajectories: tuple[str, ...] = ()
    """Run folder of a training with track_tsd: reports how early its directions agree with those of each adapter."""
    top_k: int = Field(default=8, ge=1, le=64)
    """Directions per layer."""
    interference: bool = True
    """Generate an image with each adapter, and forecast how much the others disturb it."""
    timestep_profile: bool = False
    """Also show at which denoising steps each adapter acts."""
    steps: int = Field(default=6, ge=1, le=999)
    """Denoising steps of that image."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of its noise."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute: auto, cpu, cuda or mps. Decompositions are always computed on the CPU."""
