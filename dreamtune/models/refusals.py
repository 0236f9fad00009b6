"""What to say of models that cannot be a base, wherever they are found out."""

from __future__ import annotations

PICKLE_ADVICE = (
    "pickled files can run code when they are opened, so that they never are here; convert the model to .safetensors "
    "first, in a place that you can throw away, or take one that is published so"
)
REFINER = "the SDXL refiner, which only finishes pictures of another model: use the SDXL base"
INPAINTING = "inpainting and editing models cannot be used: take the plain model that it was made from"
