"""Where each subject of a prompt is in a draft by the base, as boxes that regions can take.

A subject is where another color of it would change the predicted noise: the mask of DiffEdit (Couairon et al.,
arXiv 2210.11427) from a contrast that leaves the composition alone. On the embedded base it finds subjects more surely
than cross-attention to their words does; docs/log.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor

from dreamtune.data.subject_map import COLORS as COLORS  # two: four find subjects no better
from dreamtune.models import Base
from dreamtune.models.conditioning import unet_inputs
from dreamtune.models.device import exact_convolutions

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in shares of the picture."""

SIDES = {2: ("on the left", "on the right"), 3: ("on the left", "in the middle", "on the right")}
"""What prompts call the places of two and three subjects side by side."""
STEPS = 10
"""That a whole draft would have."""
_LOOKED = (2, 4, 6)
"""Steps at which the changes are measured: before them nothing has a place, after them colors are settled."""
_ALIKE = 0.6
"""Correlation of two maps above which they show one thing: 0.69 to 0.93 where the base drew one thing twice. Of 79
pairs that were drawn one is above it, with 0.84."""
_LEAST_AREA = 0.02
"""Share of the picture that a subject has at least."""
_LEAST_SIDE = 0.2
"""Of a box, as a share of the picture."""
_TAIL = 0.05
"""Share of a subject's change that may lie outside of its box, on each of the four sides."""


class _Enough(Exception):
    """What is left of a draft would not be looked at."""


@exact_convolutions()
@torch.no_grad()
def located(
    base: Base,
    prompt: str,
    recolored: Sequence[Sequence[str]],
    seed: int,
    *,
    size: int,
    guidance: float,
    scheduler: str,
    negative_prompt: str = "",
    prompt_weights: bool = False,
) -> Tensor:
    """Draw a draft of a prompt, from the noise of a seed, and measure (subjects, h, w) maps of the latents' size.

    recolored: of each subject the prompt with other colors of it. A map has the mean 1; it is the length of the change
    of the predicted noise (or v) at each place. Raises ConfigError as Base.draw does.
    """
    seen: list[tuple[Tensor, Any, Tensor | None]] = []

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        added = kwargs.get("added_cond_kwargs") or {}
        seen.append((args[0], args[1] if len(args) > 1 else kwargs["timestep"], added.get("time_ids")))
        if len(seen) > _LOOKED[-1]:
            raise _Enough

    hook = base.unet.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        base.draw(
            [prompt],
            [seed],
            size=size,
            steps=STEPS,
            guidance=guidance,
            negative_prompt=negative_prompt,
            scheduler=scheduler,
            prompt_weights=prompt_weights,
        )
    except _Enough:
        pass
    finally:
        hook.remove()
    told = base.condition([prompt, *(it for subject in recolored for it in subject)], weights=prompt_weights)
    maps = []
    for sample, timestep, time_ids in (seen[step] for step in _LOOKED):
        ids = None if time_ids is None else time_ids[-1:]
        plain, *others = _predictions(base, sample[-1:], timestep, told, ids, base.batch_for(size))
        changes = torch.stack([(other - plain).square().sum(0) for other in others])
        each = changes.unflatten(0, (len(recolored), -1)).mean(1).sqrt()
        maps.append(each / each.mean((1, 2), keepdim=True))
    return torch.stack(maps).mean(0)


def missing(maps: Tensor) -> int | None:
    """The first subject of maps (subjects, h, w) that has no place of its own; None if all have one.

    Two that are in the same place are one thing: the second of them is missing.
    """
    flat = maps.flatten(1)
    owners = flat.argmax(0)
    for subject in range(len(flat)):
        own = (owners == subject) & (flat[subject] > 1)
        if float(own.float().mean()) < _LEAST_AREA:
            return subject
    alike = torch.corrcoef(flat)
    return next((j for i, j in combinations(range(len(flat)), 2) if alike[i, j] > _ALIKE), None)


def boxes(maps: Tensor) -> list[Box]:
    """A box for each subject of maps (subjects, h, w), of which none is :func:`missing`.

    Each holds the places that change most with its subject, all but a small share at every side. Where boxes overlap
    they are cut apart, and small ones are widened to a fifth of the picture.
    """
    owners, others = maps.argmax(0), maps.sum(0) - maps
    found = []
    for subject in range(len(maps)):
        own = (maps[subject] - others[subject] / 2).clamp(min=0) * (owners == subject)
        (x0, x1), (y0, y1) = (_extent(own.square().sum(axis)) for axis in (0, 1))
        found.append([x0, y0, x1, y1])
    for first, second in combinations(found, 2):
        _cut_apart(first, second)
    return [_widened(box) for box in found]


def strips(found: Sequence[Box]) -> tuple[list[Box], tuple[str, ...]]:
    """The boxes of two or three that stand side by side, grown to strips that fill the picture, and what prompts call
    their places. Others stay as they are, and have no names: the second value is empty.

    A box that is as tight as its subject in the draft leaves no room for another's shape, and a place with a name lets
    the prompt of a region say where its subject is.
    """
    centres = [[(box[side] + box[side + 2]) / 2 for box in found] for side in (0, 1)]
    across, along = (min(b - a for a, b in pairwise(sorted(it))) for it in centres)
    names = SIDES.get(len(found), ())
    if along > across or not names:
        return list(found), ()
    order = sorted(range(len(found)), key=lambda number: centres[0][number])
    cuts = [0.0, *(round((found[a][2] + found[b][0]) / 2, 4) for a, b in pairwise(order)), 1.0]
    rank = [order.index(number) for number in range(len(found))]
    return [(cuts[at], 0.0, cuts[at + 1], 1.0) for at in rank], tuple(names[at] for at in rank)


def _predictions(
    base: Base, sample: Tensor, timestep: Any, told: Sequence[Any], time_ids: Tensor | None, batch: int
) -> list[Tensor]:
    """(c, h, w) fp32 of each prompt, for one sample (1, c, h, w); `batch` of them at once."""
    found: list[Tensor] = []
    for start in range(0, len(told), batch):
        part = [it.to(dtype=base.unet.dtype) for it in told[start : start + batch]]
        ids = None if time_ids is None else time_ids.expand(len(part), -1)
        given = sample.expand(len(part), -1, -1, -1)
        found += base.unet(given, timestep, **unet_inputs(part, ids), return_dict=False)[0].float().cpu()
    return found


def _extent(profile: Tensor) -> tuple[float, float]:
    """Where a profile along one side begins and ends, in shares of that side, its tails left out."""
    total = profile.cumsum(0) / profile.sum()
    start, stop = int((total > _TAIL).nonzero()[0]), int((total >= 1 - _TAIL).nonzero()[0]) + 1
    return start / len(profile), stop / len(profile)


def _cut_apart(first: list[float], second: list[float]) -> None:
    """Let two boxes meet in the middle of where they overlap, along the side on which that is less."""
    depths = [min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    if min(depths) <= 0:
        return
    side = depths.index(min(depths))
    low, high = sorted((first, second), key=lambda box: box[side] + box[side + 2])
    low[side + 2] = high[side] = (max(low[side], high[side]) + min(low[side + 2], high[side + 2])) / 2


def _widened(box: Sequence[float]) -> Box:
    for side in (0, 1):
        lack = _LEAST_SIDE - (box[side + 2] - box[side])
        if lack > 0:
            start = min(max(0.0, box[side] - lack / 2), 1 - _LEAST_SIDE)
            box = [*box]
            box[side], box[side + 2] = start, start + _LEAST_SIDE
    x0, y0, x1, y1 = (round(value, 4) for value in box)
    return x0, y0, x1, y1
