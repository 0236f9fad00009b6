"""Hashes of what a run is trained with, to recognize it on resume wherever it is stored by then."""

from __future__ import annotations

from torch import nn

from dreamtune.data.cache import weights_digest
from dreamtune.evaluation import Judge
from dreamtune.models import Base


def weights_of(base: Base) -> dict[str, str]:
    """Of all weights that a training sees."""
    encoders = [weights_digest(part) for name, part in base.parts.items() if name != "unet"]
    return {"base": weights_digest(base.unet), "VAE": weights_digest(base.vae), "text encoders": " ".join(encoders)}


def weights_of_judge(judge: Judge | None) -> dict[str, str]:
    """Of the judge's encoders; empty without a judge, and for pocket's own judge, which ships with the package."""
    parts = [] if judge is None else [weights_digest(it) for it in vars(judge).values() if isinstance(it, nn.Module)]
    return {"judge": " ".join(parts)} if parts else {}
