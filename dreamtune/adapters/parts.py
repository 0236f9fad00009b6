"""The parts of a base that an adapter file may change, and the layers in them that adapters are for."""

from __future__ import annotations

from torch import nn

from dreamtune.errors import IncompatibleModelError

from .layer import kernel_of, matrix_shape, obstacle_in

UNET = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""Prefixes of layer paths in adapter files; the second is SDXL's."""
PARTS = (UNET, *TEXT_ENCODERS)


def split_part(path: str) -> tuple[str, str]:
    """Part, and path in it, of a layer path of an adapter file; the UNet's paths have no prefix."""
    part, dot, rest = path.partition(".")
    return (part, rest) if dot and part in TEXT_ENCODERS else (UNET, path)


def join_part(part: str, path: str) -> str:
    """Undo :func:`split_part`; `path` may begin with the `text_model.` that files leave out."""
    return path if part == UNET else f"{part}.{path.removeprefix('text_model.')}"


def holder(part: str, model: nn.Module) -> nn.Module:
    """The module whose paths are those of the file: transformers keeps some CLIP encoders inside `text_model`."""
    inner = getattr(model, "text_model", None)
    return inner if part in TEXT_ENCODERS and isinstance(inner, nn.Module) else model


def layer_at(
    module: nn.Module, path: str, shape: tuple[int, int] | None = None, kernel: tuple[int, int] | None = None
) -> nn.Linear | nn.Conv2d:
    """The layer `path` of `module` if it can be adapted, and has the `shape` (out, in) of ΔW if that is given.

    kernel: of the convolution that it has to be, (1, 1) for a Linear layer as well; not compared if left out. Raises
    IncompatibleModelError otherwise.
    """
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        raise IncompatibleModelError(
            f"the model has no layer {path}: the adapter is for another kind of base"
        ) from None
    obstacle = obstacle_in(layer, path)
    if obstacle:
        raise IncompatibleModelError(obstacle)
    has, own = matrix_shape(layer), kernel_of(layer) or (1, 1)
    if shape not in (None, has) or kernel not in (None, own):
        wanted = size_of(shape or has, kernel or own)
        raise IncompatibleModelError(
            f"the layer {path} is {size_of(has, own)}, the adapter's {wanted}: it is for another base"
        )
    return layer  # pyright: ignore[reportReturnType]


def size_of(shape: tuple[int, int], kernel: tuple[int, int]) -> str:
    """A layer's size in words: "320x4 with a kernel of 3x3" for a ΔW of the shape (320, 36)."""
    rows, columns = shape
    if kernel == (1, 1):
        return f"{rows}x{columns}"
    return f"{rows}x{columns // (kernel[0] * kernel[1])} with a kernel of {kernel[0]}x{kernel[1]}"
