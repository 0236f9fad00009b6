"""Crops, boxes and detection targets of the evaluators."""

import numpy as np
import torch

from dreamtune.pocket.evaluators.geometry import best, crop, overlap, presence_target
from dreamtune.pocket.evaluators.networks import CROP, GRID, PICTURE


def test_crop_shows_the_box_in_the_middle() -> None:
    picture = torch.zeros(1, 3, PICTURE, PICTURE)
    picture[:, :, 12:24, 24:36] = 1.0  # a square of a quarter of the side
    box = torch.tensor([[24 / PICTURE, 12 / PICTURE, 36 / PICTURE, 24 / PICTURE]])
    out = crop(picture, box)[0, 0]
    assert out.shape == (CROP, CROP)
    margin = CROP * (1 - 1 / 1.15) / 2
    lit = (out > 0.5).nonzero()
    assert torch.allclose(lit.amin(0).float(), torch.tensor([margin, margin]), atol=1.5)
    assert torch.allclose(lit.amax(0).float(), torch.tensor([CROP - margin, CROP - margin]), atol=1.5)


def test_overlap_of_equal_disjoint_and_half_boxes() -> None:
    a = torch.tensor([0.0, 0.0, 0.5, 0.5])
    others = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9], [0.25, 0.0, 0.75, 0.5]])
    assert torch.allclose(overlap(a, others), torch.tensor([1.0, 0.0, 1 / 3]))


def test_the_best_places_skip_those_of_the_same_subject() -> None:
    presence = torch.full((1, GRID, GRID), -9.0)
    boxes = torch.zeros(1, GRID, GRID, 4)
    boxes[..., 2:] = 0.01
    left, right = torch.tensor([0.1, 0.3, 0.4, 0.7]), torch.tensor([0.6, 0.3, 0.9, 0.7])
    for column, score, box in ((2, 3.0, left), (3, 2.9, left + 0.01), (8, 1.0, right)):
        presence[0, 6, column], boxes[0, 6, column] = score, box
    scores, found = best(presence, boxes)
    assert torch.equal(found[0], torch.stack([left, right]))
    assert torch.allclose(scores[0], torch.tensor([3.0, 1.0]).sigmoid())


def test_targets_are_the_middle_of_each_box_and_nothing_for_an_absent_subject() -> None:
    boxes = torch.tensor([[[0.0, 0.25, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    positive, ignored, goal = presence_target(boxes)
    rows, columns = np.nonzero(positive[0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 9, 2, 3)
    assert not (positive & ignored).any()
    assert ignored[0, 4, 1]
    assert not ignored[0, 4, 7]
    assert torch.equal(goal[positive], boxes[0, 0].expand(int(positive.sum()), 4))


def test_the_front_subject_owns_shared_cells() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.2, 0.2, 0.8, 0.8]]])
    _, _, goal = presence_target(boxes)
    assert torch.equal(goal[0, 6, 6], boxes[0, 1])
    assert torch.equal(goal[0, 3, 3], boxes[0, 0])  # in the middle half of the first alone
