"""One layer's change ΔW in the form that everything here is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import Adapter
from dreamtune.adapters.spectrum import Spectrum

_RESOLUTION = 1e-7
"""Singular values below this share of the largest are rounding: fp32 resolves no less."""


@dataclass(frozen=True, eq=False)
class Change:
    """ΔW = u @ diag(s) @ vᵀ, its thin singular value decomposition: fp64 on the CPU, r = 0 for ΔW = 0."""

    u: Tensor
    """(out, r), orthonormal columns."""
    s: Tensor
    """(r,), descending, all above 0."""
    v: Tensor
    """(in, r), orthonormal columns."""

    @classmethod
    @torch.no_grad()
    def of_factors(cls, up: Tensor, down: Tensor) -> Change:
        """Of up @ down, up (out, k), down (k, in), in O((out + in)·k²)."""
        left = torch.linalg.qr(up.detach().cpu().double())
        right = torch.linalg.qr(down.detach().cpu().double().T)
        u, s, vh = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
        return cls._cut(left.Q @ u, s, right.Q @ vh.T)

    @classmethod
    @torch.no_grad()
    def of_matrix(cls, change: Tensor) -> Change:
        """Of a dense ΔW (out, in), in O(out·in·min(out, in))."""
        u, s, vh = torch.linalg.svd(change.detach().cpu().double(), full_matrices=False)
        return cls._cut(u, s, vh.T)

    @classmethod
    @torch.no_grad()
    def of_adapter(cls, adapter: Adapter, weight: Tensor) -> Change:
        """Of any method's adapter on its pristine `weight` (out, in)."""
        factors = adapter.low_rank(weight)
        if factors is not None and factors[0].shape[1] < min(adapter.shape):
            return cls.of_factors(*factors)
        return cls.of_matrix(adapter.delta_weight(weight))

    @classmethod
    def _cut(cls, u: Tensor, s: Tensor, v: Tensor) -> Change:
        rank = int((s > _RESOLUTION * s[0]).sum()) if s[0] > 0 else 0
        return cls(u[:, :rank].contiguous(), s[:rank].contiguous(), v[:, :rank].contiguous())

    @property
    def rank(self) -> int:
        """Number of directions that are not rounding."""
        return len(self.s)

    @property
    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        return float(self.s.norm())

    @property
    def spectrum(self) -> Spectrum:
        """Its singular values, with energy and stable rank; that of ΔW = 0 is a single 0."""
        return Spectrum(self.s if self.rank else torch.zeros(1, dtype=torch.float64))

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """(out, r) and (r, in), whose product is ΔW."""
        return self.u * self.s, self.v.T

    @property
    def gain(self) -> Tensor:
        """V diag(s) (in, r) fp32: ‖ΔW x‖ = ‖xᵀ V diag(s)‖ for any input x."""
        return (self.v * self.s).float()

    def dense(self) -> Tensor:
        """ΔW (out, in) in fp32."""
        return (self.u * self.s).float() @ self.v.T.float()
