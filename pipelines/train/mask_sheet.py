"""A contact sheet of images with the outlines of their masks, to see which masks to correct."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from dreamtune.errors import ConfigError
from dreamtune.pipelines.contact_sheet import PAPER, sheet
from dreamtune.pipelines.output import write_png

SIDE = 240
"""Pixels of each image on the sheet."""
OUTLINE = (255, 0, 200)
HIDDEN = (120, 124, 130)
"""Color of what a mask hides."""


def mask_sheet(masked: Mapping[str, tuple[Image.Image, np.ndarray]]) -> Image.Image:
    """Rows of an image with its mask's outline next to the masked image; label -> RGB image, (h, w) bool mask."""
    rows = {label: [_outlined(picture, mask), _alone(picture, mask)] for label, (picture, mask) in masked.items()}
    return sheet(rows, ["outline", "masked image"])


def write_mask_sheet(path: Path, masked: Mapping[str, tuple[Image.Image, np.ndarray]]) -> None:
    """:func:`mask_sheet` as a PNG that must not exist. Raises ConfigError."""
    try:
        write_png(path, mask_sheet(masked), replace=False)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write the sheet {path}: {reason}; the masks themselves were written") from None


def _outlined(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    large, shown = _fitted(picture, mask)
    edge = np.asarray(shown.filter(ImageFilter.MaxFilter(5))) > np.asarray(shown.filter(ImageFilter.MinFilter(3)))
    pixels = np.asarray(large).copy()
    pixels[edge] = OUTLINE
    return _square(Image.fromarray(pixels))


def _alone(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    large, shown = _fitted(picture, mask)
    return _square(Image.composite(large, Image.new("RGB", large.size, HIDDEN), shown))


def _fitted(picture: Image.Image, mask: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """Image and mask at a size of which the longer side is SIDE."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return picture.resize(size, method), Image.fromarray(mask.astype(np.uint8) * 255).resize(
        size, Image.Resampling.NEAREST
    )


def _square(picture: Image.Image) -> Image.Image:
    page = Image.new("RGB", (SIDE, SIDE), PAPER)
    page.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return page
