"""Boxes from maps whose answer is known, and maps of a draft."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamtune.generation.locate import boxes, located, missing, strips
from dreamtune.models import load_base


def blob(x: int, y: int, size: int = 4, side: int = 16) -> Tensor:
    """A map (side, side) of mean 1 that is large in a square."""
    found = torch.full((side, side), 0.02)
    found[y : y + size, x : x + size] = 3.0
    return found / found.mean()


def test_each_subject_gets_the_box_it_is_in() -> None:
    maps = torch.stack([blob(1, 6), blob(10, 4, 6)])
    assert missing(maps) is None
    assert boxes(maps) == [(1 / 16, 6 / 16, 5 / 16, 10 / 16), (10 / 16, 4 / 16, 1.0, 10 / 16)]
    assert boxes(maps.flip(0)) == boxes(maps)[::-1]


def test_boxes_that_overlap_meet_and_small_ones_are_widened() -> None:
    shape = blob(0, 0, 8)
    shape[7:, :] = shape[0, 15]
    first, second = boxes(torch.stack([shape + 2 * blob(6, 12, 4), blob(6, 1, 7)]))
    overlap = [min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    assert min(overlap) <= 1e-6
    (x0, y0, x1, y1), _ = boxes(torch.stack([blob(15, 0, 1), blob(2, 2)]))
    assert (x1 - x0, y1 - y0, x1, y0) == pytest.approx((0.2, 0.2, 1.0, 0.0))


def test_boxes_side_by_side_grow_to_strips_with_names() -> None:
    left, right, middle = (0.1, 0.4, 0.3, 0.8), (0.7, 0.3, 0.9, 1.0), (0.4, 0.5, 0.6, 0.9)
    assert strips([right, left]) == ([(0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)], ("on the right", "on the left"))
    found, names = strips([middle, left, right])
    assert found == [(0.35, 0.0, 0.65, 1.0), (0.0, 0.0, 0.35, 1.0), (0.65, 0.0, 1.0, 1.0)]
    assert names == ("in the middle", "on the left", "on the right")


def test_boxes_above_one_another_and_more_than_three_stay() -> None:
    above = [(0.3, 0.0, 0.7, 0.4), (0.35, 0.6, 0.75, 1.0)]
    assert strips(above) == (above, ())
    four = [(0.25 * number, 0.4, 0.25 * number + 0.2, 0.9) for number in range(4)]
    assert strips(four) == (four, ())


@pytest.mark.parametrize(
    ("maps", "lost"),
    [
        ([blob(1, 6), blob(1, 6)], 1),  # both in one place
        ([blob(1, 6), blob(1, 6) * 0.9 + 0.1, blob(10, 6)], 1),
        ([blob(1, 6), torch.ones(16, 16)], 1),  # nothing changes anywhere
        ([blob(1, 6), blob(10, 6), blob(6, 12)], None),
    ],
)
def test_a_subject_without_a_place_is_missing(maps: list[Tensor], lost: int | None) -> None:
    assert missing(torch.stack(maps)) == lost


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("family", ["tiny", "tiny_sdxl"])
def test_maps_of_a_draft(family: str, guidance: float, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    base = load_base(folder, "cpu")
    before = torch.random.get_rng_state()
    given: dict[str, Any] = {"size": base.resolution, "guidance": guidance, "scheduler": "ddim"}
    maps = located(base, "a cat", [["a red cat"], ["a cat"], ["a red cat"]], 0, **given)
    assert maps.shape == (3, *[base.resolution // base.factor] * 2)
    assert maps[0].mean() == pytest.approx(1, abs=1e-4)
    assert torch.equal(maps[0], maps[2])
    assert torch.equal(torch.random.get_rng_state(), before)
