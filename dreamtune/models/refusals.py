"""What to say of models that cannot be a base, wherever they are found out."""

from __future__ import annotations

PICKLE_ADVICE = (
    "pickled files can run code and are never opened; use a model published as .safetensors, or convert it first, in "
    "a disposable environment"
)
REFINER = "the SDXL refiner, which only refines the images of another model: use the SDXL base"
INPAINTING = "inpainting and editing models are not supported: use the plain model it was made from"
