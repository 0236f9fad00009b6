"""Boxes to crops, and Finder's maps to boxes."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .networks import CROP, GRID

MARGIN = 1.15
"""Side of a crop over the longer side of its box."""
SECOND_SCORE = 0.5
"""A second subject is reported from this certainty on."""
OVERLAP = 0.3
"""Boxes that overlap more (intersection over union) are the same subject."""


def crop(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Square crops (n, 3, 40, 40) around `boxes` (n, 4), one of each picture (n, 3, h, w); outside is repeated edge."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True).clamp_min(0.05) / 2 * MARGIN
    theta = torch.zeros(len(boxes), 2, 3, dtype=pictures.dtype, device=pictures.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 2 * half[:, 0]  # grid coordinates run from -1 to 1
    theta[:, :, 2] = 2 * center - 1
    grid = F.affine_grid(theta, [len(boxes), 3, CROP, CROP], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) and (..., 4)."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inner = (high - low).clamp_min(0).prod(-1)
    return inner / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner).clamp_min(1e-9)


def best(presence: Tensor, boxes: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """Scores (n, count) and boxes (n, count, 4) of the likeliest places that do not overlap each other.

    presence: (n, 12, 12) logits; boxes: (n, 12, 12, 4). The score is 0 where there is no further place.
    """
    rest, flat = presence.flatten(1).sigmoid(), boxes.flatten(1, 2)
    rows = torch.arange(len(rest), device=rest.device)
    scores, places = list[Tensor](), list[Tensor]()
    for _ in range(count):
        at = rest.argmax(1)
        scores.append(rest[rows, at].clamp_min(0))
        places.append(flat[rows, at])
        rest = rest.masked_fill(overlap(places[-1][:, None], flat) > OVERLAP, -1.0)
    return torch.stack(scores, 1), torch.stack(places, 1)


def in_strips(presence: Tensor, boxes: Tensor, count: int) -> Tensor:
    """Boxes (n, count, 4) of the likeliest place in each of `count` strips, by the cells in its columns, left to right.

    presence: (n, 12, 12) logits; boxes: (n, 12, 12, 4).
    """
    edges = [round(i * GRID / count) for i in range(count + 1)]
    rows, found = torch.arange(len(presence), device=presence.device), list[Tensor]()
    for start, stop in pairwise(edges):
        at = presence[:, :, start:stop].flatten(1).argmax(1)
        found.append(boxes[:, :, start:stop].flatten(1, 2)[rows, at])
    return torch.stack(found, 1)


def presence_target(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Training targets of Finder for boxes (n, 2, 4), zeros where a subject is absent.

    Returns (positive, ignored) (n, 12, 12) and the box of each positive cell (n, 12, 12, 4). A cell is positive when
    its center lies in the middle half of a box; the rest of the box is ignored.
    """
    at = (torch.arange(GRID, device=boxes.device) + 0.5) / GRID
    x, y = at.view(1, 1, 1, GRID), at.view(1, 1, GRID, 1)
    x0, y0, x1, y1 = (boxes[..., i, None, None] for i in range(4))
    inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    qx, qy = (x1 - x0) / 4, (y1 - y0) / 4
    middle = (x > x0 + qx) & (x < x1 - qx) & (y > y0 + qy) & (y < y1 - qy)
    positive = middle.any(1)
    owner = middle.float().flip(1).argmax(1)  # the front subject, which is the later one, wins
    owner = boxes.shape[1] - 1 - owner
    goal = boxes[torch.arange(len(boxes), device=boxes.device)[:, None, None], owner]
    return positive, inside.any(1) & ~positive, goal
