"""How alike two changes of one layer are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamtune.adapters import Delta


def shared(a: Tensor, b: Tensor) -> int:
    """Number of directions in both lists of indices."""
    return int(torch.isin(a, b).sum())


def rank_biased_overlap(a: Tensor, b: Tensor, persistence: float = 0.9) -> float | None:
    """Rank-biased overlap, extrapolated, of two lists of equal depth (Webber, Moffat, Zobel 2010, equation 23).

    1 for equal lists, 0 for disjoint ones; early ranks count more, and with p = 0.9 the first ten make 86 %. Lists of
    unequal length are cut to the shorter. None if one is empty.
    """
    depth = min(len(a), len(b))
    if not depth:
        return None
    agreements = [shared(a[:d], b[:d]) for d in range(1, depth + 1)]
    weighted = sum(x / d * persistence**d for d, x in enumerate(agreements, 1))
    p = persistence
    return agreements[-1] / depth * p**depth + (1 - p) / p * weighted


def spearman(a: Tensor, b: Tensor) -> float | None:
    """Rank correlation of two series (n,); equal values share their mean rank. None if one of them is constant."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size else None


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0, (n,) fp64; of equal values the mean."""
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() + 1) / 2)[group]


def hypergeometric(n: int, k: int) -> tuple[float, ...]:
    """Probability that two random sets of k out of n things share 0, 1, ..., k of them."""
    if not 0 < k <= n:
        raise ValueError(f"k = {k} must be between 1 and n = {n}")
    return tuple(math.comb(k, m) * math.comb(n - k, k - m) / math.comb(n, k) for m in range(k + 1))


def subspace_similarity(a: Tensor, b: Tensor) -> float | None:
    """φ = ‖AᵀB‖²/min(r_a, r_b) of orthonormal columns (n, r_a), (n, r_b) (LoRA, arXiv 2106.09685, equation 4).

    1 if one span holds the other, 0 if they are orthogonal; max(r_a, r_b)/n between random ones. None if one is empty.
    """
    smaller = min(a.shape[1], b.shape[1])
    return float((a.T @ b).square().sum()) / smaller if smaller else None


def cosine(a: Delta, b: Delta) -> float | None:
    """⟨ΔA, ΔB⟩/(‖ΔA‖‖ΔB‖). None if one is 0."""
    if not (a.rank and b.rank):
        return None
    return max(-1.0, min(1.0, a.inner(b) / (a.norm * b.norm)))


def excess_sign_conflict(a: Tensor, b: Tensor) -> float | None:
    """Share of elements where ΔA and ΔB, both (out, in), have opposite signs, less what their cosine explains.

    Jointly normal elements of correlation ρ have opposite signs with probability arccos(ρ)/π (Sheppard 1899): above 0
    they fight more than their cosine tells. Elements that are 0 in one of them do not count. None if none are left.
    """
    product = a * b
    there = product != 0
    count = int(there.sum())
    if not count:
        return None
    correlation = float(product.sum() / (a[there].norm() * b[there].norm()))
    return float((product < 0).sum()) / count - math.acos(max(-1.0, min(1.0, correlation))) / math.pi


def norm_ratio(a: Delta, b: Delta) -> float | None:
    """‖ΔA‖/‖ΔB‖. None if ΔB = 0."""
    return a.norm / b.norm if b.rank else None
