"""Everything measured in one layer: each adapter's directions, and each pair's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.svd import Svd

from .chance import Null, chance
from .directions import Position, amplification, position, strongest
from .health import Health, health
from .overlap import (
    cosine,
    excess_sign_conflict,
    hypergeometric,
    norm_ratio,
    rank_biased_overlap,
    shared,
    spearman,
    subspace_similarity,
)
from .projections import Projections, Shares


@dataclass(frozen=True, eq=False)
class Seen:
    """One adapter in one layer; None for what is not defined there."""

    tsd: Tensor
    """Indices (≤ top_k,) by falling δ."""
    leading: Tensor
    """The same twice as far (≤ 2·top_k,): what predictions aim at."""
    rates: Tensor
    """δ of all core directions (k,)."""
    position: Position | None
    amplification: Mapping[str, float | None]
    """Of all of ΔW, and of its terms where the method has several (AB, dash)."""
    shares: Shares | None
    """How ΔW spreads over the core and the global directions of W."""
    health: Health
    columns: Tensor
    """Share of ‖ΔW‖² that each right singular vector of W sees (k,); empty for ΔW = 0."""


@dataclass(frozen=True)
class Pair:
    """Adapters `a` and `b` (numbers) in one layer; None for what is not defined there."""

    a: int
    b: int
    k: int
    """Directions that can be shared: the shorter of the two lists."""
    shared: int | None
    chance: float | None
    """What unrelated changes with these singular values share on average, see chance.py."""
    chance_low: int | None
    chance_high: int | None
    chance_variance: float | None
    chance_uniform: float | None
    """k²/n: what random sets of directions share."""
    rbo: float | None
    rbo_chance: float | None
    spearman: float | None
    spearman_chance: float | None
    left: float | None
    """φ of the left subspaces of the first top_k directions of each ΔW."""
    right: float | None
    left_chance: float | None
    right_chance: float | None
    cosine: float | None
    excess_sign_conflict: float | None
    norm_ratio: float | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer and the adapters that change it."""

    name: str
    shape: tuple[int, int]
    """(out, in)"""
    sigma: Tensor
    """Singular values of W (k,)."""
    seen: Mapping[int, Seen]
    """Number of an adapter -> what it does here; those that leave the layer alone are not there."""
    pairs: tuple[Pair, ...] = field(default=())


def study(
    name: str,
    weight: Tensor,
    svd: Svd,
    changes: Mapping[int, Delta],
    top_k: int = 8,
    terms: Mapping[int, Mapping[str, tuple[Tensor, Tensor]]] | None = None,
) -> Layer:
    """Measure the changes of one layer.

    weight: of the base (out, in); svd: its full decomposition; changes: number of an adapter -> its ΔW here; terms: see
    Adapter.terms. All but the pairs costs as much for each adapter, whatever their number.
    """
    seen = {
        number: _seen(weight, svd, change, top_k, (terms or {}).get(number, {})) for number, change in changes.items()
    }
    generator = torch.Generator().manual_seed(0)
    sides = {n: _Side.of(svd, changes[n], seen[n], top_k, generator) for n in changes} if len(changes) > 1 else {}
    pairs = tuple(_pair((a, b), sides[a], sides[b], top_k, len(svd.s)) for a, b in combinations(sorted(sides), 2))
    return Layer(name, (weight.shape[0], weight.shape[1]), svd.s, seen, pairs)


@dataclass(frozen=True, eq=False)
class _Side:
    """What all pairs of an adapter need of it."""

    change: Delta
    seen: Seen
    null: Null | None
    """None for ΔW = 0."""
    dense: Tensor
    left: Tensor
    """The first top_k directions of ΔW (out, ≤ top_k)."""
    right: Tensor
    """(in, ≤ top_k)"""

    @classmethod
    def of(cls, svd: Svd, change: Delta, seen: Seen, top_k: int, generator: torch.Generator) -> _Side:
        null = Null.of(svd, change, top_k, generator) if change.rank else None
        return cls(change, seen, null, change.without_rounding(), *change.leading(top_k))


def _seen(weight: Tensor, svd: Svd, change: Delta, top_k: int, terms: Mapping[str, tuple[Tensor, Tensor]]) -> Seen:
    projections = Projections.of(svd, change)
    leading = strongest(projections, change.norm, 2 * top_k)
    indices = leading[:top_k]
    return Seen(
        tsd=indices,
        leading=leading,
        rates=projections.rates,
        position=position(svd, indices),
        amplification={"all": projections.amplification(indices)}
        | {name: amplification(svd, indices, *own) for name, own in terms.items()},
        shares=Shares.of(projections, change, top_k),
        health=health(weight, svd, change),
        columns=projections.columns / change.norm**2 if change.rank else projections.columns[:0],
    )


def _pair(numbers: tuple[int, int], a: _Side, b: _Side, top_k: int, directions: int) -> Pair:
    """directions: how many core directions the layer has."""
    tsd = a.seen.tsd, b.seen.tsd
    k = min(len(one) for one in tsd)
    null = chance(a.null, b.null) if a.null and b.null and k == min(top_k, directions) else None
    alone = a.change.rank and b.change.rank
    widest = max(a.left.shape[1], b.left.shape[1])
    return Pair(
        a=numbers[0],
        b=numbers[1],
        k=k,
        shared=shared(tsd[0][:k], tsd[1][:k]) if k else None,
        chance=null.mean if null else None,
        chance_low=null.low if null else None,
        chance_high=null.high if null else None,
        chance_variance=null.variance if null else None,
        chance_uniform=sum(m * p for m, p in enumerate(hypergeometric(directions, k))) if k else None,
        rbo=rank_biased_overlap(*tsd),
        rbo_chance=null.rbo if null else None,
        spearman=spearman(a.seen.rates, b.seen.rates) if alone else None,
        spearman_chance=null.spearman if null else None,
        left=subspace_similarity(a.left, b.left),
        right=subspace_similarity(a.right, b.right),
        left_chance=widest / len(a.left) if alone else None,
        right_chance=widest / len(a.right) if alone else None,
        cosine=cosine(a.change, b.change),
        excess_sign_conflict=excess_sign_conflict(a.dense, b.dense) if alone else None,
        norm_ratio=norm_ratio(a.change, b.change),
    )


def summarize(layers: Sequence[Layer], a: int, b: int) -> dict[str, float | int | None]:
    """Means over the layers where the pair `a`, `b` has each figure, for a whole adapter or a block.

    `overlap` is the share of directions in common, with `overlap_low` and `overlap_high` twice its standard error over
    the layers away, `overlap_chance` what unrelated adapters have, and `z` how many standard deviations of chance lie
    between them; `norm_ratio` is the geometric mean.
    """
    pairs = [pair for layer in layers for pair in layer.pairs if (pair.a, pair.b) == (a, b)]
    whole = [pair for pair in pairs if pair.shared is not None and pair.chance is not None]
    values: dict[str, float | int | None] = {"a": a, "b": b, "layers": len(pairs)}
    shares = torch.tensor([(p.shared or 0) / p.k for p in whole], dtype=torch.float64)
    chances = torch.tensor([(p.chance or 0) / p.k for p in whole], dtype=torch.float64)
    noise = sum((p.chance_variance or 0) / p.k**2 for p in whole) ** 0.5 / max(len(whole), 1)
    mean = float(shares.mean()) if whole else None
    error = float(shares.std(correction=1)) / len(whole) ** 0.5 if len(whole) > 1 else None
    values["overlap"] = mean
    values["overlap_low"] = None if mean is None or error is None else mean - 2 * error
    values["overlap_high"] = None if mean is None or error is None else mean + 2 * error
    values["overlap_chance"] = float(chances.mean()) if whole else None
    values["z"] = (mean - float(chances.mean())) / noise if mean is not None and noise else None
    for name in ("rbo", "rbo_chance", "spearman", "spearman_chance", "left", "right", "left_chance", "right_chance"):
        values[name] = _mean([getattr(pair, name) for pair in pairs])
    values["cosine"] = _mean([pair.cosine for pair in pairs])
    values["excess_sign_conflict"] = _mean([pair.excess_sign_conflict for pair in pairs])
    ratios = [pair.norm_ratio for pair in pairs if pair.norm_ratio]
    values["norm_ratio"] = float(torch.tensor(ratios).log().mean().exp()) if ratios else None
    return values


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
