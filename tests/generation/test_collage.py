"""Subjects that are cut out of pictures of them alone and set into a draft."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dreamtune.generation.collage import CutOut, collage, emptied

SIDE = 40
RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


def _cut(color: tuple[int, int, int], left: int, top: int, right: int, bottom: int) -> CutOut:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top:bottom, left:right] = True
    picture = np.where(mask[..., None], np.array(color, dtype=np.uint8), np.uint8(255))
    return CutOut.of(Image.fromarray(picture), mask)


def test_what_is_cut_out() -> None:
    it = _cut(RED, 10, 8, 26, 36)
    assert it.image.size == it.mask.size == (16, 28)
    assert it.image.getcolors() == [(16 * 28, RED)]
    assert it.foot == 36 / SIDE


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((0.0, 0.0, 1.0, 1.0), (12, 8, 16, 28)),  # never enlarged, in the middle, as high as it stood
        ((0.0, 0.0, 0.2, 1.0), (0, 22, 8, 14)),  # as wide as its place
        ((0.5, 0.0, 1.0, 0.5), (25, 0, 11, 19)),  # as high as its place, within it
    ],
)
def test_where_it_stands(place: tuple[float, float, float, float], expected: tuple[int, int, int, int]) -> None:
    found = _cut(RED, 10, 8, 26, 36).within(place, SIDE)
    assert np.abs(np.subtract(found, expected)).max() <= 1
    left, top, width, height = found
    x0, y0, x1, y1 = (SIDE * it for it in place)
    assert x0 <= left + 1 and left + width <= x1 + 1 and y0 <= top + 1 and top + height <= y1 + 1


def test_who_stands_lower_stands_in_front() -> None:
    scene = Image.new("RGB", (SIDE, SIDE), GREY)
    high, low = _cut(RED, 10, 4, 30, 30), _cut(BLUE, 10, 10, 30, 38)
    everywhere = (0.0, 0.0, 1.0, 1.0)
    for both in ([(high, everywhere), (low, everywhere)], [(low, everywhere), (high, everywhere)]):
        made = collage(scene, both)
        assert made.getpixel((20, 20)) == BLUE
        assert made.getpixel((20, 6)) == RED
        assert made.getpixel((2, 2)) == GREY
    assert scene.getcolors() == [(SIDE * SIDE, GREY)], "the draft stays what it was"


def test_a_draft_loses_what_its_masks_show() -> None:
    draft = Image.new("RGB", (SIDE, SIDE), GREY)
    draft.paste(RED, (10, 10, 20, 20))
    draft.paste(BLUE, (26, 10, 34, 20))
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[10:20, 10:20] = True
    left = np.asarray(emptied(draft, [mask])).astype(int)
    assert np.abs(left[5:24, 5:23] - np.array(GREY)).max() <= 4
    assert tuple(left[15, 30]) == BLUE
    assert emptied(draft, []) is draft


def test_a_tail_takes_no_room() -> None:
    """The body is as large as without it, and where it would be."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[8:36, 10:26] = True
    picture = Image.new("RGB", (SIDE, SIDE), RED)
    plain = CutOut.of(picture, mask).within((0.0, 0.0, 0.3, 1.0), SIDE)
    mask[35:36, 26:38] = True
    tailed = CutOut.of(picture, mask).within((0.0, 0.0, 0.3, 1.0), SIDE)
    assert tailed[3] >= plain[3] - 1
    assert abs(tailed[0] - plain[0]) <= 2
    assert tailed[2] > plain[2] + 3
