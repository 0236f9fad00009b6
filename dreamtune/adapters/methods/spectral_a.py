"""Additive Spectral Adapter (Zhang & Pilanci, arXiv 2405.13952): W' = [U₁+A_U, U₂] S [V₁+A_V, V₂]ᵀ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .spectral import Spectral, SpectralConfig


@dataclass(frozen=True)
class SpectralAConfig(SpectralConfig):
    """Options of the additive Spectral Adapter."""


class SpectralA(Spectral):
    """`left` (out, r) is the paper's A_U, `right` (in, r) its A_V; `values` c is added to S, as in the paper's code.

    ΔW has rank 2r at most. It is written without S's own part of W, which would cancel: with V' = V₁ + A_V,
    ΔW = scale · (A_U diag(s+c) V'ᵀ + U₁ (diag(c) V'ᵀ + diag(s) A_Vᵀ)).
    """

    config_class = SpectralAConfig

    def trained_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(out, r) and (in, r)."""
        return (self.out_features, self.config.rank), (self.in_features, self.config.rank)

    def delta_weight(self, weight: Tensor) -> Tensor:
        """The product of :meth:`low_rank`."""
        up, down = self.low_rank(weight)
        return up @ down

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """[scale·A_U diag(s+c), U₁] (out, 2r) and [V'ᵀ; scale·(diag(c) V'ᵀ + diag(s) A_Vᵀ)] (2r, in)."""
        scale = self.config.scale
        right = self.v + self.right
        second = (scale * self.s) * self.right
        sums = self.s
        if self.values is not None:
            second = second + (scale * self.values) * right
            sums = sums + self.values
        return torch.cat([self.left * (scale * sums), self.u], 1), torch.cat([right, second], 1).T
