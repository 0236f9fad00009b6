"""Settings of `evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dreamtune.pipelines.generate.config import DrawingConfig


class EvaluateConfig(DrawingConfig):
    """What to evaluate, and how. Image i starts from the same noise without the adapter and with it."""

    adapter: str
    """Adapter file of any supported tool, and its strength."""
    images: Path
    """Folder with images of the subject; the training images will do."""
    prompts: Path | None = None
    """Text file with one prompt per line, with {token} and {class}. Default: ten places."""
    token: str | None = None
    """Token of the subject. Default: the one recorded in the file."""
    class_word: str | None = None
    """Class word of the subject. Default: the one recorded in the file."""
    dino: str | None = None
    """Identity encoder (DINO, DINOv2 or DINOv3): a folder or a hub id. Needed for bases other than pocket."""
    clip: str | None = None
    """Image-text encoder (CLIP): a folder or a hub id. Needed for bases other than pocket."""
    n: int = Field(default=2, ge=1, le=1000)
    """Images per prompt. Each is generated three times: class by the base, subject and class with the adapter."""
