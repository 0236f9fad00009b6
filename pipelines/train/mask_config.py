"""Settings of `mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from dreamtune.config import Config


class MaskConfig(Config):
    """Which masks to make, and how."""

    images: Path
    """Folder with images of the subject."""
    class_word: str = Field(min_length=1)
    """What the subject is, in a word the base knows, e.g. dog (--class)."""
    base: str = "pocket"
    """Base model whose attention finds the subject; as in training."""
    refine: Literal["grabcut", "none"] = "grabcut"
    """How edges are refined: grabcut follows the image's colors, none thresholds the base's map."""
    overwrite: bool = False
    """Replace existing masks x.mask.png; otherwise images with a mask are skipped."""
    strict: bool = False
    """Write nothing if any image cannot be used or gets no mask."""
    sheet: Path | None = None
    """PNG to write: a contact sheet of all images with the outlines of their masks."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the noise that the base sees the images under."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute: auto, cpu, cuda or mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the base: fp32, bf16 or fp16. bf16 halves its memory."""

    @field_validator("images", "sheet")
    @classmethod
    def _home(cls, value: Path | None) -> Path | None:
        return value and value.expanduser()

    @field_validator("class_word")
    @classmethod
    def _a_word(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("class_word is empty: set it to what the subject is, e.g. dog or teapot")
        return value.strip()
