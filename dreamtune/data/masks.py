"""Where the subject is in an image, by a drawn mask or its own transparency, as weights of latent cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from dreamtune.data.buckets import Crop
from dreamtune.data.images import UnusablePicture, open_picture

_GLANCE = 64
"""Side of the small copy in which color is looked for: single odd pixels do not matter."""
_SPREAD = 40
"""Difference between the channels of a pixel that compression does not make of gray."""


def has_colour(image: Image.Image) -> bool:
    """Whether anything of an RGB picture is neither black nor white nor gray; masks are."""
    small = np.asarray(image.resize((_GLANCE, _GLANCE), Image.Resampling.BOX), dtype=np.int16)
    return bool((small.max(axis=2) - small.min(axis=2)).max() > _SPREAD)


def read_mask(path: Path, size: tuple[int, int], sure: bool = True) -> Image.Image:
    """The mask (L) in the file for an upright picture of `size`: white is the subject, black is ignored.

    A mask of another size is taken if it has the picture's shape: masks are often drawn on a smaller copy. What is
    transparent in it is black. sure: whether color in it does not matter. Raises UnusablePicture.
    """
    picture = open_picture(path)
    if not sure and has_colour(picture.image):
        remedy = "name it x.mask.png for x.jpg, or rename it if it is not a mask"
        raise UnusablePicture("is named like a mask but has color", remedy)
    width, height = picture.size
    if abs(width * size[1] - height * size[0]) > max(width, height, *size):
        have, want = f"{width}x{height}", f"{size[0]}x{size[1]}"
        raise UnusablePicture(f"has the wrong size ({have}, the image {want})", "draw it on the image itself")
    mask = picture.image.convert("L")
    if picture.alpha is not None:  # it was laid on white
        mask = ImageChops.subtract(mask, ImageChops.invert(picture.alpha))
    if mask.getextrema()[1] == 0:
        raise UnusablePicture("is all black", "paint the subject white; without a mask the whole image counts")
    return mask


def cell_weights(mask: Image.Image, crop: Crop, cell: int) -> np.ndarray | None:
    """(h, w) fp32 share of each latent cell that the mask shows, after the crop; None where it shows everything.

    Raises UnusablePicture if the crop leaves nothing of it.
    """
    x, y = mask.width / crop.original[0], mask.height / crop.original[1]
    left, top, right, bottom = crop.box
    cells = (crop.size[0] // cell, crop.size[1] // cell)
    small = mask.resize(cells, Image.Resampling.BOX, box=(left * x, top * y, right * x, bottom * y))
    weights = np.asarray(small, dtype=np.float32) / 255
    if not weights.any():
        raise UnusablePicture("shows nothing inside the crop", "crop the image to the subject")
    return None if weights.min() == 1 else weights
