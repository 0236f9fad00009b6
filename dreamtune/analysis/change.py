"""One layer's change ΔW in the form that everything here is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import Adapter
from dreamtune.adapters.spectrum import Spectrum
from dreamtune.errors import AdapterFileError

_RESOLUTION = 1e-6
"""Singular values below this share of the largest are rounding: a ΔW that was formed in fp32 resolves no less."""


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
        """Of up @ down, up (out, k), down (k, in), in O((out + in)·k²). Raises AdapterFileError for NaN or infinity."""
        left, right = torch.linalg.qr(_exact(up)), torch.linalg.qr(_exact(down).T)
        u, s, vh = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
        _check(float(s[0]) < torch.finfo(torch.float32).max)
        rank = _rank(s)
        return cls(left.Q @ u[:, :rank], s[:rank], right.Q @ vh[:rank].T)

    @classmethod
    @torch.no_grad()
    def of_matrix(cls, change: Tensor) -> Change:
        """Of a dense ΔW (out, in), in O(out·in·min(out, in)).

        By the eigenvectors of ΔWᵀΔW, in half the time of a decomposition of ΔW: in fp64 they tell singular values down
        to 1e-8 of the largest. Raises AdapterFileError for NaN or infinity.
        """
        matrix = _exact(change)
        if matrix.shape[0] < matrix.shape[1]:
            turned = cls.of_matrix(matrix.T)
            return cls(turned.v, turned.s, turned.u)
        squares, v = torch.linalg.eigh(matrix.T @ matrix)  # ascending
        s = squares.clamp_min(0).sqrt().flip(0)
        rank = _rank(s)
        s, v = s[:rank], v.flip(1)[:, :rank].contiguous()
        return cls(matrix @ v / s, s, v)

    @classmethod
    @torch.no_grad()
    def of_adapter(cls, adapter: Adapter, weight: Tensor) -> Change:
        """Of any method's adapter on its pristine `weight` (out, in). Raises AdapterFileError for NaN or infinity."""
        factors = adapter.low_rank(weight)
        if factors is not None and factors[0].shape[1] < min(adapter.shape):
            return cls.of_factors(*factors)
        return cls.of_matrix(adapter.delta_weight(weight))

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


def _exact(matrix: Tensor) -> Tensor:
    """In fp64 on the CPU."""
    _check(bool(matrix.isfinite().all()))
    return matrix.detach().cpu().double()


def _check(finite: bool) -> None:
    if not finite:
        raise AdapterFileError("its change holds NaN or infinity: train it again, with a smaller learning rate")


def _rank(s: Tensor) -> int:
    """How many of the singular values `s`, in descending order, are not rounding."""
    return int((s > _RESOLUTION * s[0]).sum()) if s[0] > 0 else 0
