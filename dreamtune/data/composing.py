"""One picture made of two: the subject at one side, beside another thing. Pixels alone; composites.py says of which.

Without a mask two pictures stand side by side, as in Cut-Mix of SVDiff (Han et al., arXiv 2303.11305, section 3.3).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")

PICTURE = 0.7
"""Side of a whole picture beside another, as a share of the composite's; what does not fit into its half is cut off."""
CUT_OUT = (0.46, 0.62)
"""Largest width and height of a cut-out subject, as shares of the composite's: two things in a picture are so large."""
_OTHER_WEIGHT = 0.5
"""In the loss, of the other thing: enough that it stays there, and less than what is to be learned."""
_LOWEST = 0.9
"""Share of the height at which a cut-out ends at the lowest."""

Pixels = npt.NDArray[np.uint8]


def cut_out_size(width: float, height: float, side: int) -> tuple[int, int]:
    """Width and height in pixels at which a subject of these proportions stands in a composite of `side` pixels."""
    scale = side * min(CUT_OUT[0] / width, CUT_OUT[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def beside(
    subject: Image.Image, mask: Image.Image | None, other: Image.Image, on: Side, height: float, cell: int
) -> tuple[Image.Image, Image.Image]:
    """The composite (RGB) and the weight (L) that its pixels have in the loss, both of the size of `other`, a square.

    subject: RGB, with `mask` (L) of its size cut out at :func:`cut_out_size` and laid over the other picture; without
    the whole picture, of PICTURE of the side. on: its side. height: from 0 to 1, how low it stands. cell: pixels of a
    latent cell; between the two pictures so many count nothing at both sides, for a latent cell sees beyond its edges.
    """
    side, left = other.width, on == "left"
    own = np.broadcast_to((np.arange(side) < side // 2) == left, (side, side))
    small = round(PICTURE * side)
    whole = other.resize((small, small), Image.Resampling.LANCZOS)
    pixels, weights = _in_half(whole, side, not left, height)
    weights = np.where(own, 0, _OTHER_WEIGHT * weights)
    if mask is None:
        here, inside = _in_half(subject, side, left, height)
        pixels[own], weights[own] = here[own], inside[own]
        weights[:, side // 2 - cell : side // 2 + cell] = 0
        made = Image.fromarray(pixels)
    else:  # the other picture goes on behind it, so that there is no seam
        corner = (
            round(side * (0.25 if left else 0.75) - subject.width / 2),
            round((side * _LOWEST - subject.height) * (0.5 + 0.5 * height)),
        )
        made, shown = Image.fromarray(pixels), Image.new("L", (side, side))
        made.paste(subject, corner, mask)
        shown.paste(mask, corner)
        weights = np.maximum(weights, np.asarray(shown, dtype=np.float32) / 255)
    return made, Image.fromarray(np.round(255 * weights).astype(np.uint8))


def _in_half(picture: Image.Image, side: int, left: bool, height: float) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """A square picture in the middle of the left or right half of a larger one, and 1 where it is (side, side).

    Its edges go on to those of the larger picture: sky above, ground below, and at the sides what is beside a thing.
    """
    small = np.asarray(picture)
    top = round((side - small.shape[0]) * (0.5 + 0.5 * height))
    start = round(side * (0.25 if left else 0.75) - small.shape[1] / 2)
    rows, columns = np.arange(side) - top, np.arange(side) - start
    inside = [(at >= 0) & (at < small.shape[axis]) for axis, at in enumerate((rows, columns))]
    rows, columns = (at.clip(0, small.shape[axis] - 1) for axis, at in enumerate((rows, columns)))
    return small[rows[:, None], columns], np.outer(*inside).astype(np.float32)
