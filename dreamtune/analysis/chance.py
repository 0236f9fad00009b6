"""What unrelated changes would share: the overlap of task-specific directions by chance.

Two random sets of k of n directions share k²/n (see hypergeometric). But δ divides by σ, so that any two changes favor
the small σ of one and the same W: unrelated ones share more. Here the null is a change of the same singular values in
random directions, on the same W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.methods.lora_dash import EPSILON
from dreamtune.adapters.svd import Svd

from .overlap import rank_biased_overlap, spearman

DRAWS = 128
"""Random changes per adapter and layer; two adapters then make 16384 pairs."""
_PRODUCTS = 8
"""Singular values whose directions are drawn one by one; the others together are nearly normal."""
_SAMPLE = 16
"""Pairs of draws behind the mean by chance of the costlier measures."""


@dataclass(frozen=True, eq=False)
class Null:
    """Random changes of one layer with the singular values of one adapter's."""

    rates: Tensor
    """δ of each draw (draws, k), up to a factor."""
    sets: Tensor
    """Indices of the highest (draws, top_k), in order."""

    @classmethod
    @torch.no_grad()
    def of(cls, svd: Svd, change: Delta, top_k: int, generator: torch.Generator) -> Null:
        """Draw them: uᵢᵀΔWvᵢ = Σⱼ sⱼ gᵢⱼ hᵢⱼ with normal g and h, as of random orthonormal directions in large layers.

        change: not 0.
        """
        count, few = len(svd.s), min(_PRODUCTS, change.rank)
        projections = torch.zeros(DRAWS, count)
        for value in change.s[:few].tolist():
            g, h = (torch.randn(DRAWS, count, generator=generator) for _ in range(2))
            projections += value * g * h
        if change.rank > few:
            projections += float(change.s[few:].norm()) * torch.randn(DRAWS, count, generator=generator)
        rates = projections.abs() / (svd.s + EPSILON)
        return cls(rates, rates.topk(min(top_k, count), 1).indices)


@dataclass(frozen=True)
class Chance:
    """What two unrelated changes share in one layer."""

    mean: float
    """Directions shared on average."""
    low: int
    """95 % of unrelated pairs share from `low`..."""
    high: int
    """...to `high`."""
    variance: float
    """Of the number shared."""
    rbo: float
    """Rank-biased overlap on average."""
    spearman: float
    """Rank correlation of δ on average: high, since both divide by the same σ."""


@torch.no_grad()
def chance(a: Null, b: Null) -> Chance:
    """By all pairs of a draw of `a` and one of `b`."""
    count = a.rates.shape[1]
    sets = [torch.zeros(len(null.sets), count).scatter_(1, null.sets, 1.0) for null in (a, b)]
    ordered = (sets[0] @ sets[1].T).flatten().sort().values  # of draws² pairs
    places = [int(share * (len(ordered) - 1)) for share in (0.025, 0.975)]
    return Chance(
        mean=float(ordered.mean()),
        low=int(ordered[places[0]]),
        high=int(ordered[places[1]]),
        variance=float(ordered.var(correction=0)),
        rbo=_mean([rank_biased_overlap(a.sets[i], b.sets[i]) for i in range(_SAMPLE)]),
        spearman=_mean([spearman(a.rates[i], b.rates[i]) for i in range(_SAMPLE)]),
    )


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
