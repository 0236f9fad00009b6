"""A start for a picture of several subjects: each cut out of a picture of it alone, and set into a draft of the scene.

A base draws a subject best when it is the only one. The collage is drawn on from a late step, as SDEdit does with
composited pictures (Meng et al., arXiv 2108.01073, section 4.3), which gives it one light and takes away the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dreamtune.generation.locate import Box

Mask = npt.NDArray[np.bool_]

_FILLED = 0.96
"""Share of its place that the body of a subject fills at most, in width and height."""
_THIN = 0.03
"""Share of a cut-out's area on the left, and on the right, that is no body: tails may reach over into another place."""
_WIDER = 0.06
"""By how much what is taken out of the draft is wider than its mask, as a share of the picture."""
_REACH = 3
"""Pixels around a hole from which it is filled."""


@dataclass(frozen=True, eq=False)
class CutOut:
    """A subject without its background."""

    image: Image.Image
    """RGB, no larger than the subject."""
    mask: Image.Image
    """L, of that size."""
    body: tuple[int, int]
    """From where to where it is more than a tail, in columns."""
    foot: float
    """Where it ended at the bottom of its picture, from 0 to 1."""

    @classmethod
    def of(cls, picture: Image.Image, mask: Mask) -> CutOut:
        """What a mask (h, w), which shows something, shows of a picture of that size."""
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        shown = Image.fromarray(mask.astype(np.uint8) * 255).crop(box)
        mass = np.cumsum(mask.sum(0)[box[0] : box[2]]) / mask.sum()
        body = (int(np.searchsorted(mass, _THIN)), int(np.searchsorted(mass, 1 - _THIN)) + 1)
        return cls(picture.crop(box), shown, body, box[3] / picture.height)

    def within(self, place: Box, side: int) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels at which it stands in a place of a picture of `side` pixels.

        It keeps its proportions, is never enlarged, and stands with its body in the middle from left to right, and as
        high above the place's lower edge as it stood above its picture's.
        """
        x0, y0, x1, y1 = (side * edge for edge in place)
        start, stop = self.body
        scale = min(1.0, _FILLED * (x1 - x0) / (stop - start), _FILLED * (y1 - y0) / self.image.height)
        width, height = (max(1, round(scale * it)) for it in self.image.size)
        foot = max(y0 + self.foot * (y1 - y0), y0 + height)
        return round((x0 + x1) / 2 - scale * (start + stop) / 2), round(foot) - height, width, height


def emptied(draft: Image.Image, masks: Sequence[Mask]) -> Image.Image:
    """The draft without what the masks (h, w) show, filled from around (Telea's method: it makes no new things)."""
    if not masks:
        return draft
    shown = np.logical_or.reduce(masks).astype(np.uint8)
    grown = cv2.dilate(shown, np.ones((2 * max(1, round(_WIDER * draft.width / 2)) + 1,) * 2, np.uint8))
    return Image.fromarray(cv2.inpaint(np.asarray(draft), grown, _REACH, cv2.INPAINT_TELEA))


def collage(scene: Image.Image, cuts: Sequence[tuple[CutOut, Box]]) -> Image.Image:
    """The scene, a square, with each subject in its place; who stands lower stands in front."""
    made = scene.copy()
    spots = [(it, it.within(place, scene.width)) for it, place in cuts]
    for it, (left, top, width, height) in sorted(spots, key=lambda one: one[1][1] + one[1][3]):
        small, shown = (part.resize((width, height), Image.Resampling.LANCZOS) for part in (it.image, it.mask))
        made.paste(small, (left, top), shown)
    return made
