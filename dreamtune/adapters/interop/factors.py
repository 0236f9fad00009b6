"""Smaller factors of a change ΔW, and how much of it they keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError

from ..svd import Svd


@dataclass(frozen=True, eq=False)
class Factors:
    """ΔW ≈ up @ down, up (out, k), down (k, in), in fp64 on the CPU."""

    up: Tensor
    down: Tensor
    energy: float = 1.0
    """Share of ‖ΔW‖² that they keep; 1 if they are exact."""


@torch.no_grad()
def truncated(up: Tensor, down: Tensor, rank: int) -> Factors:
    """The best factors of up @ down of at most `rank` (Eckart and Young), in O((out + in)·k²); exact if k ≤ rank."""
    up, down = up.detach().cpu().double(), down.detach().cpu().double()
    if up.shape[1] <= rank:
        return Factors(up, down)
    left, right = torch.linalg.qr(up), torch.linalg.qr(down.T)
    small = best(left.R @ right.R.T, rank)
    return Factors(left.Q @ small.up, small.down @ right.Q.T, small.energy)


@torch.no_grad()
def best(change: Tensor, rank: int) -> Factors:
    """The best factors of a dense ΔW (out, in) of at most `rank`; each takes the root of the singular values.

    Raises AdapterFileError if ΔW is beyond what numbers hold, as finite tensors can make it.
    """
    change = change.detach().cpu().double()
    if not change.square().sum().isfinite():
        raise AdapterFileError("a layer's change is beyond what numbers hold: train it again, at a smaller rate")
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    return leading(Svd(left, values, right.T), rank)


@torch.no_grad()
def leading(svd: Svd, rank: int) -> Factors:
    """The same of a ΔW whose decomposition is known, all of it."""
    left, values, right = svd.u.double(), svd.s.double(), svd.v.double().T
    rank = min(rank, len(values))
    root, squares = values[:rank].sqrt(), values.square()
    total = float(squares.sum())
    # of what is lost, not of what is kept: exactly 1 where nothing is
    energy = 1 - float(squares[rank:].sum()) / total if total else 1.0
    return Factors(left[:, :rank] * root, root[:, None] * right[:rank], energy)
