"""Where regions are in the picture: masks (h, w) from 0 to 1, soft or hard, and how they share it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamtune.errors import ConfigError


def box_mask(box: Sequence[float], size: tuple[int, int], softness: float = 0.0) -> Tensor:
    """(h, w) mask of a box x0, y0, x1, y1 in shares of the picture; its edges fall off over the share `softness`.

    Raises ConfigError for a box outside the picture or without area.
    """
    x0, y0, x1, y1 = box
    if not all(0 <= value <= 1 for value in box):
        raise ConfigError(f"the region {x0:g},{y0:g},{x1:g},{y1:g} reaches outside the image: use numbers from 0 to 1")
    if x0 >= x1 or y0 >= y1:
        raise ConfigError(f"the region {x0:g},{y0:g},{x1:g},{y1:g} has no area: use left, top, right, bottom")
    sides = []
    for (start, stop), length in zip(((y0, y1), (x0, x1)), size, strict=True):
        at = (torch.arange(length) + 0.5) / length
        # an edge that is the picture's own is no edge
        rise = _edge(at - start, softness) if start > 0 else torch.ones(length)
        fall = _edge(stop - at, softness) if stop < 1 else torch.ones(length)
        sides.append(torch.minimum(rise, fall))
    return sides[0][:, None] * sides[1][None, :]


def softened(mask: Tensor, softness: float) -> Tensor:
    """A painted mask (h, w) whose edges fall off over the share `softness` of the picture, as those of boxes do."""
    radius = round(softness * max(mask.shape) / 2)
    if radius == 0:
        return mask
    wide = F.pad(mask[None, None], (radius,) * 4, mode="replicate")  # the picture's own edge is no edge
    return F.avg_pool2d(wide, 2 * radius + 1, stride=1)[0, 0]


def shares(masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(n, h, w) what each region has of every pixel, and (h, w) what is left to the context; together 1.

    Regions that overlap are averaged: where masks add up to more than 1 each is divided by the sum.
    """
    stacked = torch.stack(list(masks)).float()
    total = stacked.sum(0)
    return stacked / total.clamp(min=1), (1 - total).clamp(min=0)


def overlaps(masks: Sequence[Tensor]) -> list[tuple[int, int, float]]:
    """Pairs of masks that overlap, and on what share of the picture. Soft edges that meet are no overlap."""
    found = []
    for first, second in combinations(range(len(masks)), 2):
        share = float((torch.minimum(masks[first], masks[second]) > 0.51).float().mean())
        if share > 0:
            found.append((first, second, share))
    return found


def _edge(distance: Tensor, softness: float) -> Tensor:
    """0 outside, 1 inside, a straight line between that is `softness` wide."""
    return (distance >= 0).float() if softness == 0 else (distance / softness + 0.5).clamp(0, 1)
