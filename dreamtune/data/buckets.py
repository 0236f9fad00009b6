"""Aspect-ratio buckets: the shapes that images are trained at, and how each is cropped and resized to one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from dreamtune.models import Base

LONGEST = 2
"""Sides of a bucket differ at most by this factor: the base has seen nothing longer."""


@dataclass(frozen=True)
class Crop:
    """The part of an upright picture that is used, and the size it is brought to; all in pixels."""

    original: tuple[int, int]
    """Width and height of the upright picture."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom inside the picture."""
    size: tuple[int, int]
    """Width and height that training sees."""

    @property
    def kept(self) -> float:
        """Share of the picture's area that is used."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top) / (self.original[0] * self.original[1])

    @property
    def scale(self) -> float:
        """Pixels of the result per pixel of the picture, along a side; above 1 it is enlarged."""
        return self.size[1] / (self.box[3] - self.box[1])

    def apply(self, image: Image.Image) -> Image.Image:
        """Cut and resize the picture, or a smaller copy of it: LANCZOS when it shrinks, BICUBIC when it grows."""
        x, y = image.width / self.original[0], image.height / self.original[1]
        left, top, right, bottom = self.box
        if (x, y) == (1, 1) and (right - left, bottom - top) == self.size:
            return image.crop(self.box)
        method = Image.Resampling.LANCZOS if self.scale < min(x, y) else Image.Resampling.BICUBIC
        return image.resize(self.size, method, box=(left * x, top * y, right * x, bottom * y))

    def time_ids(self, mirrored: bool = False) -> Tensor:
        """(6,) fp32: SDXL's micro-conditioning (Podell et al. 2023, section 2.2), of the mirrored picture if asked.

        Height and width of the picture before resizing, top and left of the crop after it, height and width that
        training sees.
        """
        width, height = self.original
        left = width - self.box[2] if mirrored else self.box[0]
        corner = (round(self.box[1] * self.scale), round(left * self.scale))
        return torch.tensor([height, width, *corner, self.size[1], self.size[0]], dtype=torch.float32)


@dataclass(frozen=True)
class Framing:
    """The shapes that a training allows."""

    resolution: int
    """Side of the square shape in pixels; every other one has about this area and never more."""
    buckets: bool = True
    """Allow shapes other than the square, so that less of a long picture is cut off."""
    cell: int = 8
    """Pixels along a side of one latent cell."""
    step: int = 64
    """Sides of shapes other than the square are multiples of this many pixels, so that the UNet halves them evenly."""

    @classmethod
    def of(cls, base: Base, resolution: int, buckets: bool) -> Framing:
        """The shapes that suit a base."""
        halvings = len(base.unet.config["down_block_types"]) - 1
        return cls(resolution, buckets, base.factor, base.factor * 2**halvings)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every shape, the square first."""
        square = (self.resolution, self.resolution)
        if not self.buckets:
            return (square,)
        area = self.resolution**2
        sizes = [square]
        for short in range(self.step, self.resolution + 1, self.step):
            long = area // short // self.step * self.step
            if short <= long <= LONGEST * short:
                sizes += [(short, long), (long, short)]
        return tuple(dict.fromkeys(sizes))

    def crop(self, width: int, height: int) -> Crop:
        """The largest centerd part of a picture that has the shape which cuts off least of it.

        Among equally good shapes the one with the most pixels wins, and the square over others.
        """
        size = max(
            self.sizes, key=lambda size: (round(_overlap(width / height, size[0] / size[1]), 9), math.prod(size))
        )
        edge = min(width / size[0], height / size[1])
        wide, high = min(width, round(size[0] * edge)), min(height, round(size[1] * edge))
        left, top = (width - wide) // 2, (height - high) // 2
        return Crop((width, height), (left, top, left + wide, top + high), size)


def _overlap(one: float, other: float) -> float:
    """Share of the picture that is left when the one aspect ratio is cropped to the other."""
    return min(one / other, other / one)
