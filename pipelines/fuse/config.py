"""Settings of `fuse`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from dreamtune.config import Config


class FuseConfig(Config):
    """What to fuse, and how."""

    adapters: tuple[str, ...] = Field(min_length=1, max_length=100)
    """Adapter files of any supported tool, each with a weight and factors by block (down.0, mid, up.1, te)."""
    method: str = "sum"
    """Fusion method."""
    density: float | None = None
    """Share of the numbers that ties, dare, magnitude and knots keep. Default: 0.5."""
    balance: Literal["weights", "output"] | None = None
    """First scale all changes of a layer to the same size: weights compares the changes themselves, output what they do
    to the layer's output (recorded as for gradient)."""
    rank: int | Literal["full"] | None = None
    """Maximum rank per layer. Default: exact factors are kept, other layers get rank 64. full: keep everything, in a
    larger file."""
    format: Literal["adapter", "checkpoint"] = "adapter"
    """adapter: an adapter file. checkpoint: a copy of the base's single file with the result merged in."""
    base: str | None = None
    """Base model, needed for a checkpoint and where a change depends on its weights. Default: the adapters' own."""
    any_base: bool = False
    """Allow a base whose weights differ from the one the adapters were trained on."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of dare's random choice and of the recorded images."""
    prompts: tuple[str, ...] = Field(default=(), max_length=1000)
    """Prompts to record, each for the adapters whose token it holds, or for all where it holds {token}. Default: each
    subject in ten places. The first four per adapter are generated."""
    captions: tuple[str, ...] = Field(default=(), max_length=1000)
    """Captions that custom-diffusion leaves unchanged. Default: common things in ten places."""
    steps: int = Field(default=10, ge=1, le=999)
    """Denoising steps of the recorded images."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute: auto, cpu, cuda or mps."""

    @field_validator("rank", mode="before")
    @classmethod
    def _number_or_full(cls, value: Any) -> Any:
        if isinstance(value, str) and value.isdecimal() and len(value) < 9:
            value = int(value)
        if value in (None, "full") or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"rank = {value!r} must be a whole number from 1, or full")
