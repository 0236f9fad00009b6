"""Singular values of a layer's change ΔW, without forming ΔW where it has factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError

RESOLUTION = 1e-7
"""Singular values below this share of the largest are rounding: fp32 resolves no less."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one ΔW in descending order, (k,), fp64 on the CPU.

    The constructors raise AdapterFileError where ΔW is beyond what numbers hold, as finite factors can make it.
    """

    values: Tensor

    @classmethod
    @torch.no_grad()
    def of_factors(cls, up: Tensor, down: Tensor) -> Spectrum:
        """Of up @ down, up (out, k), down (k, in), in O((out + in)·k²): orthonormal factors do not change them."""
        left = torch.linalg.qr(up.detach().cpu().double(), mode="r").R
        right = torch.linalg.qr(down.detach().cpu().double().T, mode="r").R
        return cls(_singular_values(left @ right.T))

    @classmethod
    @torch.no_grad()
    def of_matrix(cls, change: Tensor) -> Spectrum:
        """Of a dense ΔW (out, in), in O(out·in·min(out, in))."""
        return cls(_singular_values(change.detach().cpu().double()))

    @property
    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        return float(self.values.norm())

    @property
    def stable_rank(self) -> float:
        """‖ΔW‖²/σ₁²: how many directions matter, between 1 and the rank; 0 for ΔW = 0."""
        largest = float(self.values[0])
        return float(self.values.div(largest).square().sum()) if largest else 0.0

    @property
    def energy(self) -> Tensor:
        """Share of ‖ΔW‖² in each singular direction, (k,); zeros for ΔW = 0."""
        squares = self.values.square()
        total = squares.sum()
        return squares / total if total else squares

    def rank_for(self, share: float = 0.9) -> int:
        """The smallest rank that keeps `share` (0 to 1) of ‖ΔW‖²; 0 for ΔW = 0."""
        if not self.values[0]:
            return 0
        kept = self.energy.cumsum(0)
        return min(int((kept < share * (1 - 1e-12)).sum()) + 1, len(kept))  # the sum may end just below 1


def _singular_values(matrix: Tensor) -> Tensor:
    if not matrix.square().sum().isfinite():  # ‖ΔW‖², of which shares are told
        raise AdapterFileError("its change overflows: train it again with a lower learning rate")
    return torch.linalg.svdvals(matrix)


def real_columns(s: Tensor, resolution: float = RESOLUTION) -> int:
    """How many of the singular values s (k,), descending, are not rounding, whose directions mean nothing."""
    return int((s > resolution * s[0]).sum()) if len(s) and s[0] > 0 else 0
