"""Means over subjects with intervals, and whether one method is better than another on the same subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

RESAMPLES = 10_000
BOUNDS = (0.025, 0.975)
_EXACT = 12
"""Up to so many subjects all signs are gone through."""


@dataclass(frozen=True)
class Interval:
    """A mean over subjects with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Subjects."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def bootstrap(
    values: Sequence[float], over: Sequence[float] | None = None, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile interval (Efron and Tibshirani 1993, chapter 13) of the mean of `values`; seeded.

    over: as many others; then it is that of the ratio of the means, values over others.
    """
    picks = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    means = np.asarray(values, dtype=float)[picks].mean(1)
    if over is not None:
        means = means / np.asarray(over, dtype=float)[picks].mean(1)
    low, high = np.quantile(means, BOUNDS)
    return float(low), float(high)


def interval(values: Mapping[str, float]) -> Interval:
    """The mean over subjects with its :func:`bootstrap` interval.

    values: subject -> its mean over seeds. Raises ValueError without any.
    """
    if not values:
        raise ValueError("no subjects: a mean needs at least one")
    own = [values[name] for name in sorted(values)]
    return Interval(float(np.mean(own)), *bootstrap(own), len(own))


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[Interval, float]:
    """The interval of one - other over the subjects that both have, and the p of the sign-flip test.

    Exact and two-sided (Fisher 1935): the share of all ways to exchange the two within subjects whose mean difference
    is as far from 0. With n subjects it is at least 2/2ⁿ.
    """
    differences = {name: one[name] - other[name] for name in one.keys() & other.keys()}
    own = np.array([differences[name] for name in sorted(differences)])
    if len(own) > _EXACT:
        signs = np.random.default_rng(0).choice([-1, 1], size=(RESAMPLES, len(own)))
    else:
        signs = np.array(list(product((-1, 1), repeat=len(own))))
    reached = np.abs(signs @ own) >= abs(own.sum()) * (1 - 1e-9)
    return interval(differences), float(reached.mean())


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p values of several comparisons, corrected for their number (Holm 1979)."""
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda it: p[it])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = highest
    return adjusted


def verdict(difference: Interval) -> str:
    """What an interval says of the claim that the difference is above 0."""
    if difference.low > 0:
        return "holds"
    return "does not" if difference.high < 0 else "unclear"


def both(row: Mapping[str, Any]) -> float:
    """Harmonic mean of subject and prompt fidelity, high only where both are; 0 where one is not above 0, or NaN."""
    subject, prompt = row["fidelity"], row["prompt"]
    return 2 * subject * prompt / (subject + prompt) if subject > 0 and prompt > 0 else 0.0


def by_subject(rows: list[dict[str, Any]], figure: str) -> dict[str, float]:
    """Subject -> mean of a figure, or of :func:`both`, over its rows, which differ by seed."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["subject"], []).append(both(row) if figure == "both" else row[figure])
    return {name: float(np.mean(values)) for name, values in found.items()}
