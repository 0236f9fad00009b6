"""The designs that a base can have, how each is recognized and loaded, and what cannot be a base."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

PICKLE_ADVICE = (
    "pickled files can run code and are never opened; use a model published as .safetensors, or convert it first, in "
    "a disposable environment"
)
REFINER = "the SDXL refiner, which only refines the images of another model: use the SDXL base"
INPAINTING = "inpainting and editing models are not supported: use the plain model it was made from"


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
