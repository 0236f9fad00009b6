"""Whether a picture shows two subjects, each in its place, judged by identity embeddings.

All embeddings are unit rows, so that products are cosines; likeness to a subject is the mean cosine with pictures of
it. A subject counts as itself when its likeness reaches `threshold` and is larger than that to the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Couple:
    """What is known of two subjects: of each its pictures, and how alike other pictures are to them."""

    references: tuple[Tensor, Tensor]
    """(n, width) of pictures of the first, which is asked for on the left, and of the second."""
    base: tuple[float, float]
    """Likeness of the base's pictures of its class to each: the retention that is 0."""
    alone: tuple[float, float]
    """Likeness of pictures by each one's own adapter alone: the retention that is 1."""
    control: tuple[float, float]
    """Likeness of those pictures to the other subject: what is no leakage."""
    threshold: float
    """Of likeness, from which on it is the same individual."""


@dataclass(frozen=True)
class Judged:
    """Shares and means over pictures of one couple."""

    joint: float
    """Both are there, each in its place."""
    swap: float
    """Both are there, in each other's place."""
    omission: float
    """There is one subject only, or both are more like the same one."""
    retention: float
    """Likeness beyond the base's over that which the own adapter alone has; 0 for a subject that is not there."""
    leakage: float
    """Likeness of each subject's place to the other subject, beyond the control."""

    def to_dict(self) -> dict[str, Any]:
        """The figures, rounded."""
        return {name: round(value, 4) for name, value in vars(self).items()}


def judge_couple(found: Sequence[Tensor], couple: Couple) -> Judged:
    """Judge pictures from the embeddings (1 or 2, width) of their subjects, from left to right.

    Raises ValueError without pictures.
    """
    if not found:
        raise ValueError("no pictures: a mean needs at least one")
    rows = [_judge(_table(subjects, couple), couple) for subjects in found]
    return Judged(*(float(np.mean(column)) for column in zip(*rows, strict=True)))


def _table(subjects: Tensor, couple: Couple) -> Tensor:
    """(subjects, 2) likeness of each found subject to the first and the second."""
    return torch.stack([(subjects @ references.T).mean(1) for references in couple.references], 1)


def _judge(table: Tensor, couple: Couple) -> tuple[bool, bool, bool, float, float]:
    nearer = table.argmax(1).tolist()
    if len(table) < 2:
        own = nearer[0]
        kept = _kept(float(table[0, own]), own, couple) / 2
        return False, False, True, kept, float(table[0, 1 - own]) - couple.control[own]
    itself = [bool(table[i].max() >= couple.threshold) for i in range(2)]
    both = all(itself)
    straight, crossed = nearer == [0, 1], nearer == [1, 0]
    order = (0, 1) if table[0, 0] + table[1, 1] >= table[0, 1] + table[1, 0] else (1, 0)
    kept = sum(_kept(float(table[i, own]), own, couple) for i, own in enumerate(order)) / 2
    leaks = [float(table[i, 1 - own]) - couple.control[own] for i, own in enumerate(order)]
    return both and straight, both and crossed, not (straight or crossed), kept, sum(leaks) / 2


def _kept(value: float, own: int, couple: Couple) -> float:
    span = couple.alone[own] - couple.base[own]
    return (value - couple.base[own]) / span if span > 0 else float("nan")


def interval(values: Sequence[float], seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of `values`, over whatever they are figures of."""
    rng = np.random.default_rng(seed)
    array = np.asarray(values, dtype=float)
    means = array[rng.integers(0, len(array), (draws, len(array)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
