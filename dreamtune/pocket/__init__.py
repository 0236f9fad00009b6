"""pocket: the embedded base model, the world it was trained on, and the encoders that judge pictures of it."""

from __future__ import annotations

from pathlib import Path

from dreamtune.errors import BaseModelError

from .photographs import draw_subject, photographs

__all__ = ["WEIGHTS", "draw_subject", "path", "photographs"]

WEIGHTS = Path(__file__).parent / "weights"


def path() -> Path:
    """Folder of the shipped base, in StableDiffusionPipeline layout.

    Raises BaseModelError when the weights are not installed.
    """
    folder = WEIGHTS / "base"
    if not (folder / "model_index.json").is_file():
        raise BaseModelError(
            "the embedded base 'pocket' has no weights in this installation: reinstall dreamtune, "
            "or train them with `python -m dreamtune.pocket.pretrain`"
        )
    return folder
