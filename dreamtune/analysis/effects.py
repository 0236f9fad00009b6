"""What adapters do to the UNet's prediction, as one vector each: whether two do the same, and what is left of each
when both act.

Weights tell little of it: other weights can do the same, and large changes may do nothing to a picture. So the
prediction is asked for itself, on the same noised pictures of the base, with an adapter and its word and without.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamtune.models import Base
from dreamtune.models.noised import noised, predicted

SHARES = (0.4, 0.6, 0.8)
"""Timesteps, as shares of all, at which the UNet is asked: where a subject's looks are decided."""


def prediction(base: Base, prompt: str, latents: Tensor, seed: int = 0) -> Tensor:
    """(n·c·h·w·len(SHARES),) fp32 on the CPU: what the UNet predicts under `prompt` for noised latents (n, c, h, w)."""
    (condition,) = base.condition([prompt])
    steps = noised(base, latents, SHARES, seed)
    return torch.cat([predicted(base, cells, step, [condition]).cpu().flatten() for cells, step in steps])


def agreement(first: Tensor, second: Tensor) -> float:
    """Cosine of what two adapters do, (k,) each: about 1 for one subject, about 0 for two; NaN if one does nothing."""
    norms = float(first.norm() * second.norm())
    return float(first @ second) / norms if norms > 0 else math.nan


def kept(together: Tensor, first: Tensor, second: Tensor) -> tuple[float, float]:
    """Shares of what each of two adapters does alone that are in what both do, (k,) each: 1 and 1 if they add up.

    The coefficients of both in `together` by least squares; NaN if one does nothing or both do the same.
    """
    own = torch.stack([first, second], 1).double()
    gram = own.T @ own
    if float(torch.linalg.det(gram)) <= 1e-9 * float(gram.diagonal().prod()):
        return math.nan, math.nan
    one, other = torch.linalg.solve(gram, own.T @ together.double()).tolist()
    return one, other
