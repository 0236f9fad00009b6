"""Task-specific directions of one layer (LoRA-Dash, Si et al., arXiv 2409.01035): which they are, and where they lie.

The core directions of a frozen W = Σ σᵢ uᵢ vᵢᵀ are the uᵢ vᵢᵀ; the global ones all uᵢ vⱼᵀ. Those along which ΔW changes
most in proportion, by δᵢ = |uᵢᵀ ΔW vᵢ|/(σᵢ + ε), are the task-specific directions (TSD).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.svd import Svd

from .projections import Projections

_NOISE = 1e-6
"""Projections below this share of ‖ΔW‖ are the rounding of singular vectors kept in fp32."""


def change_rates(svd: Svd, change: Delta) -> Tensor:
    """δᵢ of every core direction, (k,) fp64, k = min(out, in)."""
    return Projections.of(svd, change).rates


def tsd(svd: Svd, change: Delta, k: int = 8) -> Tensor:
    """Indices (≤ k,) int64 of the core directions of highest δ, that first.

    Fewer than k if the layer has fewer, or if ΔW has a part in fewer; none for ΔW = 0.
    """
    return strongest(Projections.of(svd, change), change.norm, k)


def strongest(projections: Projections, norm: float, k: int) -> Tensor:
    """The same of projections that are known, and ‖ΔW‖."""
    there = projections.core.abs() > _NOISE * norm
    rates = torch.where(there, projections.rates, -1.0)
    return rates.argsort(descending=True, stable=True)[: min(k, int(there.sum()))]


@torch.no_grad()
def amplification(svd: Svd, indices: Tensor, up: Tensor, down: Tensor) -> float | None:
    """That of :meth:`Projections.amplification`, of ΔW = up @ down, up (out, r), down (r, in)."""
    left = svd.u[:, indices].double().T @ up.detach().cpu().double()
    right = svd.v[:, indices].double().T @ down.detach().cpu().double().T
    return Projections(svd.s[indices].double(), left, right).amplification(torch.arange(len(indices)))


@dataclass(frozen=True)
class Position:
    """Where directions lie in the spectrum of W: medians over them, each 0 for the largest σ."""

    index: float
    """Place by index as a share of all, 0 to 1."""
    log_sigma: float
    """Place between the largest and the smallest σ on a logarithmic scale, 0 to 1."""


def position(svd: Svd, indices: Tensor) -> Position | None:
    """Where the core directions `indices` lie. None without any, or where W has one direction only."""
    count = len(svd.s)
    if not len(indices) or count < 2:
        return None
    logs = svd.s.double().clamp_min(float(svd.s[0]) * 1e-12).log()
    depth = logs[0] - logs
    places = depth[indices] / depth[-1] if depth[-1] > 0 else torch.zeros(len(indices), dtype=torch.float64)
    return Position(float(indices.double().median()) / (count - 1), float(places.median()))


def recall(predicted: Tensor, true: Tensor, k: int = 8) -> float | None:
    """Share of the k/2 strongest true directions that are among the k strongest predicted ones (the paper's 4 in 8).

    predicted, true: indices by falling δ. None if there are fewer than k predicted or k/2 true ones.
    """
    half = k // 2
    if len(predicted) < k or len(true) < half or not half:
        return None
    return float(torch.isin(true[:half], predicted[:k]).double().mean())


def accuracy(predicted: Tensor, true: Tensor, k: int = 8) -> float | None:
    """Share of the k strongest predicted directions that are among the 2k strongest true ones (the paper's 8 in 16).

    None if there are fewer than k predicted or 2k true ones.
    """
    if len(predicted) < k or len(true) < 2 * k:
        return None
    return float(torch.isin(predicted[:k], true[: 2 * k]).double().mean())
