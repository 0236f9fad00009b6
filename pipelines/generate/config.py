"""Settings of `generate`, and what everything that generates images has in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from dreamtune.config import Config
from dreamtune.errors import ConfigError
from dreamtune.models.families import USUAL
from dreamtune.pipelines.adapter_ref import AdapterRef, base_name, drawn_by
from dreamtune.storage import read_regular

if TYPE_CHECKING:
    from dreamtune.models import Base

LONGEST = 1 << 20
"""Bytes of a file of prompts."""
DENOISE = 0.6
"""Share of the steps that are done from a picture, where it is not set."""
COLLAGE_DENOISE = 0.15
"""From a collage, where subjects are to stay what they are."""


SEEDS = 2**32
"""Seeds are below this."""


class DrawingConfig(Config):
    """How to generate with a base model, whatever for."""

    base: str = "auto"
    """Base model, as in training. auto: the one the adapters were trained on, or pocket without adapters."""
    steps: int | None = Field(default=None, ge=1, le=999)
    """Denoising steps. Default: what suits the base."""
    guidance: float | None = Field(default=None, ge=0, le=1000, allow_inf_nan=False)
    """Classifier-free guidance scale; 1 turns it off. Default: what suits the base."""
    size: int | None = Field(default=None, ge=8, le=8192)
    """Width and height of the images in pixels. Default: the base's own."""
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    """Seed of the first image; each further image has the next seed."""
    any_base: bool = False
    """Allow a base whose weights differ from the one the adapters were trained on."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute: auto, cpu, cuda or mps. auto uses an accelerator if there is one."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Precision of the base: fp32, bf16 or fp16. Default: bf16 for SDXL, which halves its memory, else fp32."""

    _told_base: bool = PrivateAttr(default=False)

    @field_validator("size")
    @classmethod
    def _whole_latents(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(f"size = {value} must be a multiple of 8; try {round(value / 8) * 8}")
        return value

    def load_base(self, adapters: Sequence[AdapterRef]) -> Base:
        """The base to draw with, for these adapters. Raises ConfigError and BaseModelError."""
        from dreamtune.models import family_of, load_base

        told = self.base == "auto" or self._told_base
        name = base_name(adapters) if told else self.base
        precision = self.precision or ("bf16" if family_of(name, local=told) == "sdxl" else "fp32")
        return drawn_by(load_base(name, device=self.device, precision=precision, local=told), adapters)

    def with_told_base(self, told: bool) -> Self:
        """The same, in which a file has chosen the base, so that nothing is downloaded for it."""
        config = self.changed()
        config._told_base = told
        return config

    def sampling(self, base: Base) -> tuple[int, float, int]:
        """Steps, guidance and size of pictures by `base`."""
        usual = USUAL[base.family]
        return (
            usual.steps if self.steps is None else self.steps,
            usual.guidance if self.guidance is None else self.guidance,
            self.size or base.resolution,
        )


class GenerateConfig(DrawingConfig):
    """What to generate."""

    prompts: tuple[str, ...] = Field(min_length=1, max_length=10_000)
    """Prompt; may be given several times. Each is generated `n` times."""
    adapters: tuple[str, ...] = Field(default=(), max_length=100)
    """Adapter file with its strength, and the part of the steps it acts in (0.0-1.0). Several adapters add up."""
    regions: tuple[str, ...] = Field(default=(), max_length=100)
    """Part of the image with adapters and a prompt of its own. PLACE is x0,y0,x1,y1 in shares of the image, or a mask
    image that is white there."""
    mode: Literal["routed", "switch", "composite", "blend", "collage"] = "routed"
    """How adapters act together. routed: they add up, and those of a region act there, in one pass. switch: they take
    turns. composite: the predictions with each alone are averaged. blend: each region has passes of its own. collage:
    each region's subject is generated alone, pasted into a draft, and the last steps are redone."""
    softness: float = Field(default=0.05, ge=0, le=0.5)
    """Width of the soft edge of regions, as a share of the image."""
    layout: Literal["none", "auto"] = "none"
    """auto: find a region for each adapter whose token the prompt holds, in a draft by the base."""
    n: int = Field(default=4, ge=1, le=10_000)
    """Images per prompt."""
    negative_prompt: str = ""
    """Negative prompt."""
    prompt_weights: bool = False
    """Read (word:1.3) in prompts as the weight of a word, as AUTOMATIC1111 does."""
    scheduler: str = "auto"
    """Sampler. auto: the one the base ships with."""
    init: Path | None = None
    """Image to start from (img2img); cropped to a square in the middle."""
    denoise: float | None = Field(default=None, gt=0, le=1)
    """Denoising strength for --init or a collage: the share of the steps that are redone. Default: 0.6 or 0.15."""
    grid: tuple[str, ...] = Field(default=(), max_length=2)
    """Axis of a contact sheet: strength, seed, guidance, steps, scheduler or denoise with its values. At most two."""

    @field_validator("init")
    @classmethod
    def _home(cls, value: Path | None) -> Path | None:
        return value and value.expanduser()

    @model_validator(mode="after")
    def _fit_together(self) -> GenerateConfig:
        if self.denoise is not None and self.init is None and self.mode != "collage":
            raise ValueError("denoise is the share of the steps that are done from a picture: give init too")
        if self.init is not None and self.mode == "collage":
            raise ValueError("mode = collage makes a picture to start from itself: leave init out, or use routed")
        if self.mode in ("switch", "composite") and len(self.adapters) < 2:
            raise ValueError(f"mode = {self.mode} is for several adapters: give at least two")
        if self.mode in ("switch", "composite") and self.regions:
            raise ValueError(f"mode = {self.mode} has no regions: use routed or blend, or leave the regions out")
        if self.layout == "auto":
            self._check_layout()
        elif self.mode in ("blend", "collage") and not self.regions:
            raise ValueError(f"mode = {self.mode} is for regions: give at least one")
        return self

    def denoised(self, steps: int) -> float:
        """Share of `steps` that are done; at least one of them where it was not set."""
        if self.init is None and self.mode != "collage":
            return 1.0
        return self.denoise or max(1 / steps, DENOISE if self.init else COLLAGE_DENOISE)

    def _check_layout(self) -> None:
        if not self.adapters:
            raise ValueError("layout = auto places the subjects of adapters: give some")
        if self.regions:
            raise ValueError("layout = auto finds the regions itself: leave them out, or the layout")
        if self.mode in ("switch", "composite"):
            raise ValueError(f"mode = {self.mode} has no regions for a layout: use collage, routed or blend")
        if self.init is not None:
            raise ValueError("layout = auto draws a draft of its own: leave the picture to start from out")


def prompt_lines(path: Path) -> list[str]:
    """The lines of a file of prompts. Raises ConfigError for one that cannot be read, or is no text file."""
    try:
        return read_regular(path.expanduser(), LONGEST).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the prompts in {path}: {reason}") from None


def read_prompts(path: Path) -> list[str]:
    """One prompt per line of a text file; blank lines and lines that begin with # are left out.

    Raises ConfigError for a file that cannot be read or has none.
    """
    lines = prompt_lines(path)
    prompts = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not prompts:
        raise ConfigError(f"{path} holds no prompt: write one per line")
    return prompts
