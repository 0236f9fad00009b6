"""Settings of `fuse`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from dreamtune.config import Config


class FuseConfig(Config):
    """What to fuse, and how."""

    adapters: tuple[str, ...] = Field(min_length=1, max_length=100)
    """Adapter files as FILE, FILE:WEIGHT or FILE:WEIGHT,BLOCK=FACTOR."""
    method: str = "sum"
    """A name in dreamtune.fusion.FUSIONS."""
    density: float | None = None
    """Share of the numbers that ties, dare, magnitude and knots keep; 0.5 if not set."""
    balance: Literal["weights", "output"] | None = None
    """First bring all changes of a layer to one size, the geometric mean of theirs: the size of the changes themselves,
    or of what they do to the layer's output, which is recorded as for gradient."""
    rank: int | Literal["full"] | None = None
    """The most that a layer of the adapter may have; if not set, exact factors stay whole and other layers have 64.
    full keeps all of every layer, in a larger file."""
    format: Literal["adapter", "checkpoint"] = "adapter"
    """An adapter file, or a copy of the base's single file with the result in its weights."""
    base: str | None = None
    """The base, needed where a change depends on its weights and for a checkpoint; by default the adapters' own."""
    any_base: bool = False
    """Use a base with other weights than those that the adapters were trained on."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of what dare draws, and of the pictures that are recorded."""
    prompts: tuple[str, ...] = Field(default=(), max_length=1000)
    """What is read and drawn to record it, each for the adapters whose word it holds, or for all where it holds
    {token}; if not set, each adapter's subject in ten places. The first four of an adapter are drawn."""
    captions: tuple[str, ...] = Field(default=(), max_length=1000)
    """What custom-diffusion is to leave alone; if not set, common things in ten places."""
    steps: int = Field(default=10, ge=1, le=999)
    """Denoising steps of the pictures that are recorded."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where they are drawn."""

    @field_validator("rank", mode="before")
    @classmethod
    def _number_or_full(cls, value: Any) -> Any:
        if isinstance(value, str) and value.isdecimal() and len(value) < 9:
            value = int(value)
        if value in (None, "full") or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"rank = {value!r} must be a whole number from 1, or full")
