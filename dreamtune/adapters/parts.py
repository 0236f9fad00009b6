"""The parts of a base that one adapter file may change: the UNet and the text encoders."""

from __future__ import annotations

from torch import nn

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
