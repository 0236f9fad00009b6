"""A change in the basis of its weight's singular vectors (LoRA-Dash, Si et al., arXiv 2409.01035).

W = Σ σᵢ uᵢ vᵢᵀ is made of the core directions uᵢ vᵢᵀ. They belong to the global ones, all uᵢ vⱼᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.methods.lora_dash import EPSILON
from dreamtune.adapters.svd import Svd

GRID = 32
"""Most cells along a side of the map of all global directions."""


@dataclass(frozen=True, eq=False)
class Projections:
    """uᵢᵀ ΔW vⱼ for all i and j is left @ rightᵀ, on the CPU; its diagonal are those on the core directions."""

    sigma: Tensor
    """Singular values of W (k,), k = min(out, in)."""
    left: Tensor
    """(k, r) fp64, or fp32 for a ΔW without small factors: as precise as W's vectors are kept"""
    right: Tensor
    """(k, r) likewise"""

    @classmethod
    @torch.no_grad()
    def of(cls, svd: Svd, change: Delta) -> Projections:
        """In O((out + in)·k·r) for a ΔW of small rank r, else in O(out·in·k)."""
        return cls(svd.s.double(), *change.along(svd))

    @cached_property
    def core(self) -> Tensor:
        """uᵢᵀ ΔW vᵢ, with its sign: (k,) fp64."""
        return (self.left.double() * self.right.double()).sum(1)

    @property
    def rates(self) -> Tensor:
        """The paper's δᵢ = |uᵢᵀ ΔW vᵢ|/(σᵢ + ε) of every core direction, (k,)."""
        return self.core.abs() / (self.sigma + EPSILON)

    @property
    def columns(self) -> Tensor:
        """‖ΔW vⱼ‖² of every right singular vector of W, (k,) fp64."""
        return self.right.double().square().sum(1)

    def amplification(self, indices: Tensor) -> float | None:
        """‖Ūᵀ(W+ΔW)V̄‖/‖ŪᵀWV̄‖ (Frobenius), with Ū, V̄ the columns `indices` of U, V.

        The paper's amplification factor: 1 where ΔW leaves these directions as they are. None without any direction,
        or where W has nothing along them.
        """
        own = self.sigma[indices]
        if not len(indices) or not own.norm():
            return None
        changed = own.diag() + self.left[indices].double() @ self.right[indices].double().T
        return float(changed.norm() / own.norm())


@dataclass(frozen=True, eq=False)
class Shares:
    """How ΔW ≠ 0 spreads over core and global directions, as shares of ‖ΔW‖²."""

    core: Tensor
    """Of each core direction (k,)."""
    core_by_chance: float
    """Of all core directions together, for a ΔW in random directions: k/(out·in)."""
    whole: float
    """Of all global directions together: 1 unless W is wider than high, or the reverse, and ΔW leaves its space."""
    strongest: tuple[tuple[int, int, float], ...]
    """(i, j, share) of the strongest global directions, that first."""
    falling: Tensor
    """Shares of the k strongest global directions (k,), the largest first."""
    grid: Tensor
    """Means over the cells of a map of all (≤ 32, ≤ 32): row i of left singular vectors, column j of right ones."""

    @classmethod
    @torch.no_grad()
    def of(cls, projections: Projections, change: Delta, count: int = 8) -> Shares | None:
        """With the `count` strongest; None for ΔW = 0. In O(k²·r), r as of `projections`."""
        if not change.rank:
            return None
        shares = (projections.left @ projections.right.T / change.norm).square()  # (k, k)
        k = len(shares)
        largest = shares.flatten().topk(k)
        places = [(int(at) // k, int(at) % k) for at in largest.indices[:count]]
        return cls(
            core=projections.core.square() / change.norm**2,
            core_by_chance=k / (change.shape[0] * change.shape[1]),
            whole=float(shares.sum(dtype=torch.float64)),
            strongest=tuple((i, j, float(shares[i, j])) for i, j in places),
            falling=largest.values,
            grid=F.adaptive_avg_pool2d(shares[None], min(k, GRID))[0],
        )
