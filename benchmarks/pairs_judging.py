"""Whether a picture shows two subjects, each in its place, judged by identity embeddings.

All embeddings are unit rows, so that products are cosines; likeness to a subject is the mean cosine with pictures of
it. What two adapters do together is measured by what each does alone in the same place of the same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

HALF = 0.5
"""Of the likeness by the own adapter alone, from which on a subject counts as there."""

STRICT = 0.5
"""Likeness from which on a subject counts as itself, whatever its adapter does alone."""


@dataclass(frozen=True)
class Couple:
    """What is known of two subjects, of which the first is asked for on the left."""

    references: tuple[Tensor, Tensor]
    """(n, width) of pictures of each."""
    base: tuple[float, float]
    """Likeness to each of what the base draws in its place."""
    alone: tuple[float, float]
    """Likeness to each of its place where its own adapter acts alone."""
    control: tuple[float, float]
    """Likeness of that place to the other subject: what is no leakage."""

    @property
    def gain(self) -> float:
        """Likeness of both to themselves beyond the base's, each by its own adapter alone."""
        return sum(alone - base for alone, base in zip(self.alone, self.base, strict=True)) / 2

    def kept(self, value: float, own: int) -> float:
        """Share of the likeness beyond the base's that the own adapter alone has; NaN where it has none."""
        span = self.alone[own] - self.base[own]
        return (value - self.base[own]) / span if span > 0 else math.nan


@dataclass(frozen=True)
class Judged:
    """Shares and means over pictures of one couple."""

    joint: float
    """Both are there, each in its place: more like itself than like the other one, and at least half as much as by its
    own adapter alone."""
    swap: float
    """The same in each other's place."""
    omission: float
    """There is one subject only, or both are more like the same one."""
    gain: float
    """Likeness of both to themselves beyond the base's; 0 for a subject that is not there. Over that of
    :attr:`Couple.gain` it is what the adapters retain of what each does alone."""
    leakage: float
    """Likeness of each subject's place to the other subject, beyond the control."""
    strict: float
    """Both are there, each in its place: more like itself than like the other one, and at least STRICT like itself."""

    def to_dict(self) -> dict[str, Any]:
        """The figures, rounded."""
        return {name: round(value, 4) for name, value in vars(self).items()}


def judge_couple(found: Sequence[Tensor], couple: Couple) -> Judged:
    """Judge pictures from the embeddings (1 or 2, width) of their subjects, from left to right.

    Raises ValueError without pictures.
    """
    if not found:
        raise ValueError("no pictures: a mean needs at least one")
    rows = [_judge(_table(subjects, couple.references), couple) for subjects in found]
    means = (float(np.mean(column)) for column in zip(*rows, strict=True))
    return Judged(*means, strict=strict_share(found, couple.references))


def strict_share(found: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Share of pictures in which every subject is itself and in its place, for any number of subjects.

    found: of each picture the embeddings (subjects, width) from left to right, in the order of `references`, (n, width)
    of pictures of each subject. Raises ValueError without pictures.
    """
    if not found:
        raise ValueError("no pictures: a mean needs at least one")
    return float(np.mean([_strict(_table(subjects, references)) for subjects in found]))


def _strict(table: Tensor) -> bool:
    likeness: list[list[float]] = table.tolist()
    return len(likeness) == table.shape[1] and all(
        row[number] == max(row) >= STRICT for number, row in enumerate(likeness)
    )


def _table(subjects: Tensor, references: Sequence[Tensor]) -> Tensor:
    """(found subjects, subjects) likeness of each that was found to each that was asked for."""
    return torch.stack([(subjects @ it.T).mean(1) for it in references], 1)


def _judge(table: Tensor, couple: Couple) -> tuple[bool, bool, bool, float, float]:
    likeness: list[list[float]] = table.tolist()
    nearer = [row.index(max(row)) for row in likeness]
    if len(likeness) < 2:
        own = nearer[0]
        gain = (likeness[0][own] - couple.base[own]) / 2
        return False, False, True, gain, likeness[0][1 - own] - couple.control[own]
    straight, crossed = nearer == [0, 1], nearer == [1, 0]
    there = all(couple.kept(row[own], own) >= HALF for row, own in zip(likeness, nearer, strict=True))
    order = (0, 1) if likeness[0][0] + likeness[1][1] >= likeness[0][1] + likeness[1][0] else (1, 0)
    gain = sum(row[own] - couple.base[own] for row, own in zip(likeness, order, strict=True)) / 2
    leaks = sum(row[1 - own] - couple.control[own] for row, own in zip(likeness, order, strict=True)) / 2
    return there and straight, there and crossed, not (straight or crossed), gain, leaks
