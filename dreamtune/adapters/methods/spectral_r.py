"""Rotational Spectral Adapter (Zhang & Pilanci, arXiv 2405.13952): W' = [U₁R_U, U₂] S [V₁R_V, V₂]ᵀ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..base import MethodConfig, scaled
from .spectral import Spectral, SpectralConfig


@dataclass(frozen=True)
class SpectralRConfig(SpectralConfig):
    """Options of the rotational Spectral Adapter."""

    def __post_init__(self) -> None:
        """A single column cannot be rotated."""
        super().__post_init__()
        if self.rank == 1 and not self.train_singular_values:
            raise ConfigError("rank = 1 has nothing to rotate: use at least 2, or set train_singular_values")


@cache
def _triangle(rank: int) -> Tensor:
    """(2, r(r-1)/2): where the strict upper triangle is.

    Made once for a rank: on the meta device, for each layer of a file, that took longer than all else in reading it.
    """
    return torch.triu_indices(rank, rank, 1, device="cpu")


class SpectralR(Spectral):
    """`left` and `right` (r(r-1)/2,) are the strict upper triangles of X, by rows; `values` c makes S₁ into S₁(1+c).

    R = (I-K)(I+K)⁻¹ with K = ½(X-Xᵀ) is orthogonal (Cayley) and I at X = 0. A whole X, as in the paper's code, has
    r² numbers, but its diagonal and its symmetric part change nothing. ΔW has rank r at most.
    """

    config_class = SpectralRConfig

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features)
        self.register_buffer("triangle", _triangle(config.rank), persistent=False)
        self.triangle: Tensor

    def trained_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(r(r-1)/2,) each."""
        size = self.config.rank * (self.config.rank - 1) // 2
        return (size,), (size,)

    def delta_weight(self, weight: Tensor) -> Tensor:
        """U₁ M V₁ᵀ."""
        up, down = self.low_rank(weight)
        return up @ down

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """U₁ M (out, r) and V₁ᵀ (r, in)."""
        return self.u @ self._core(), self.v.T

    def _core(self) -> Tensor:
        """M (r, r) = scale · (R_U diag(s(1+c)) R_Vᵀ - diag(s)).

        With E = R - I this is E_U D R_Vᵀ + D E_Vᵀ + diag(s·c), D = diag(s(1+c)), in which nothing cancels.
        """
        left, right = self._rotation_less_identity()  # E_U, E_V
        sums = self.s if self.values is None else self.s * (1 + self.values)
        core = (left * sums) @ right.T + left * sums + sums[:, None] * right.T
        if self.values is not None:
            core = core + torch.diag(self.s * self.values)
        return scaled(self.config.scale, core)

    def _rotation_less_identity(self) -> Tensor:
        """R - I (2, r, r) for the left and the right: (I-K)(I+K)⁻¹ - I = -2K(I+K)⁻¹, exactly 0 at K = 0."""
        rows, columns = self.triangle
        rank = self.config.rank
        half = self.left.new_zeros(2, rank, rank)
        half[:, rows, columns] = 0.5 * torch.stack([self.left, self.right])
        k = half - half.mT
        return torch.linalg.solve(torch.eye(rank, dtype=k.dtype, device=k.device) + k, -2 * k, left=False)
