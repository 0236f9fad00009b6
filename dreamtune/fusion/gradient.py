"""Gradient fusion (Mix-of-Show, Gu et al., arXiv 2305.18292) in closed form, for one layer.

Mix-of-Show looks for the W that does to each adapter's inputs Xᵢ what W0 + ΔWᵢ does: it minimizes
Σ ‖(W - W0 - ΔWᵢ) Xᵢ‖² with L-BFGS. That is least squares. With weights λᵢ, by which an adapter is to do λᵢ times what
it does and counts |λᵢ| times, and Cᵢ = Xᵢ Xᵢᵀ / nᵢ,

    ΔW = Σ |λᵢ| λᵢ ΔWᵢ (Cᵢ + ε I) · (Σ |λᵢ| (Cᵢ + ε I))⁻¹.

Directions that no input has are left to the mean of the changes, where L-BFGS starts as well, and to which the ridge ε
draws: one adapter comes out as it is. The result has the factors of the ΔWᵢ, so that it is exact in a small file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamtune.adapters.delta import Delta

from .layer_deltas import LayerDelta, added

RIDGE = 1e-3
"""ε as a share of the mean of the eigenvalues of Σ |λᵢ| Cᵢ / Σ |λᵢ|."""


@torch.no_grad()
def fuse_gradient(parts: Sequence[LayerDelta], density: float) -> Delta:
    """ΔW whose outputs on every adapter's own inputs are nearest to that adapter's.

    Raises ConfigError for several parts without inputs.
    """
    if len(parts) == 1:
        return parts[0].weighted
    counts = [abs(part.weight) / sum(abs(it.weight) for it in parts) for part in parts]
    moments = [count * part.moment for count, part in zip(counts, parts, strict=True)]
    ridge = RIDGE * max(float(torch.stack(moments).sum(0).diagonal().mean()), torch.finfo(torch.float32).tiny)
    for moment, count in zip(moments, counts, strict=True):
        moment.diagonal().add_(ridge * count)
    return solved(parts, moments, torch.stack(moments).sum(0))


def solved(parts: Sequence[LayerDelta], moments: Sequence[Tensor], total: Tensor) -> Delta:
    """Σ λᵢ ΔWᵢ Mᵢ · T⁻¹ for moments Mᵢ and the total T, (in, in) fp64; only the right factors change."""
    rows = [part.weighted.down.double() @ moment for part, moment in zip(parts, moments, strict=True)]
    found = torch.linalg.solve(total, torch.cat(rows).T).T.split([len(it) for it in rows])
    ups = [part.weighted.up for part in parts]
    return added([Delta.of_factors(up, right.to(up.dtype)) for up, right in zip(ups, found, strict=True)])
