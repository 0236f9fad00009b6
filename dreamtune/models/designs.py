"""The designs that a base can have, and how each is told and loaded."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
DESIGNS: dict[str, type[Pipeline]] = {
    kind.__name__: kind for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline)
}
"""The pipelines of diffusers whose models can be a base, by the name in model_index.json."""
FAMILIES = {768: "sd1", 1024: "sd2"}
"""Family of a StableDiffusionPipeline by the width of its text embeddings; those of another are treated like pocket."""


def without_extras(design: type[Pipeline]) -> dict[str, Any]:
    """Arguments for loading a pipeline without the parts that are no part of a base."""
    if design is StableDiffusionXLPipeline:
        return {"add_watermarker": False}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
