"""Whether one layer's change is sound: how large, how concentrated, and how foreign to its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.svd import Svd

NEAR_ZERO = 1e-6
"""‖ΔW‖/‖W‖ up to which a layer has learned nothing: fp32 would lose such a change."""
TOP, LIKE = 10, 0.5
"""Directions looked at, and the cosine below which one of them is an intruder."""
_DEPTH, _TOLERANCE = 6, 1e-3


@dataclass(frozen=True)
class Health:
    """One adapter in one layer; None for what is not defined."""

    norm: float
    """‖ΔW‖ (Frobenius)."""
    relative: float | None
    """‖ΔW‖/‖W‖."""
    rank: int
    """Of ΔW, above rounding; 0 for ΔW = 0."""
    stable_rank: float | None
    """‖ΔW‖²/σ₁², between 1 and the rank."""
    energy: int | None
    """The smallest rank that keeps 90 % of ‖ΔW‖²."""
    trim: int
    """The smallest rank that keeps 95 % of ‖ΔW‖²."""
    intruders: int | None
    """See intruder_dimensions."""

    @property
    def near_zero(self) -> bool:
        """Whether the layer has learned nothing."""
        return self.relative is None or self.relative <= NEAR_ZERO


def health(weight: Tensor, svd: Svd, change: Delta) -> Health:
    """Of the base weight (out, in) with its full decomposition."""
    size, spectrum = float(svd.s.double().norm()), change.spectrum
    there = change.rank > 0
    return Health(
        norm=change.norm,
        relative=change.norm / size if size else None,
        rank=change.rank,
        stable_rank=spectrum.stable_rank if there else None,
        energy=spectrum.rank_for(0.9) if there else None,
        trim=spectrum.rank_for(0.95),
        intruders=intruder_dimensions(weight, svd, change) if there else None,
    )


@torch.no_grad()
def intruder_dimensions(weight: Tensor, svd: Svd, change: Delta) -> int | None:
    """How many of the ten first left singular vectors of W + ΔW are like none of W's: cosine below 0.5 to all.

    Shuttleworth et al. (arXiv 2410.21228), whose k is 10 and whose ε 0.5. By block Krylov iteration from the first
    vectors of W and a sketch of ΔW's; None where it does not converge (spectra without gaps), or if W has fewer than
    ten.
    """
    if len(svd.s) < TOP:
        return None
    dense = change.without_rounding()
    changed = weight.detach().cpu().float() + dense  # (out, in)
    sketch = dense.T @ torch.randn(len(dense), TOP, generator=torch.Generator().manual_seed(0))
    start = torch.cat([svd.v[:, : 2 * TOP], sketch], 1)
    powers, columns = [torch.linalg.qr(start).Q], start.shape[1]
    while len(powers) <= _DEPTH and (len(powers) + 1) * columns <= min(changed.shape):
        powers.append(torch.linalg.qr(changed.T @ (changed @ powers[-1])).Q)
    basis = torch.linalg.qr(torch.cat(powers, 1)).Q
    left, values, _ = torch.linalg.svd(changed @ basis, full_matrices=False)
    left, values = left[:, :TOP], values[:TOP]
    back = changed.T @ left
    right = back / values.clamp_min(1e-30)
    residual = (changed @ right - left * values).norm(dim=0).max()
    if residual > _TOLERANCE * values[0]:
        return None
    return int(((svd.u.T @ left).abs().amax(0) < LIKE).sum())
