"""The results of `analyze`, and summaries of adapters, pairs and kinds of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from dreamtune.analysis import Layer, Prediction, free_columns, summarize
from dreamtune.pipelines.analyze.effects import Together
from dreamtune.pipelines.analyze.recording import Interference

BLOCKS = ("down", "mid", "up", "text")
RELATIONS = ("same subject", "same class", "different class", "same seed")
"""How two adapters can be related; see Study.relation."""
SPECTRAL_WIDTH, SPECTRAL_BLOCKS = 8, 8
"""Columns in a block for a Spectral Adapter of the usual rank, and how many blocks are looked at."""


def block_of(path: str) -> str:
    """Where a layer is: `down`, `mid` or `up` in the UNet, or `text`."""
    return next((block for block in BLOCKS[:3] if path.startswith(f"{block}_block")), "text")


@dataclass(frozen=True)
class AdapterInfo:
    """One of the files."""

    file: str
    """Its name, without the folder."""
    name: str
    """Name of its subject if set, else of its run folder or file."""
    method: str
    parameters: int
    """Parameters in the file for the layers studied."""
    needs_base: bool
    """Whether the change depends on the base's weights."""
    class_word: str
    seed: int | None
    """Seed of its training, if recorded."""
    subject: str | None
    """As named by the user."""
    sha256: str


@dataclass(frozen=True)
class Trajectory:
    """How far the directions of a training agreed, step by step, with those of an adapter."""

    run: str
    """Name of its folder."""
    true: int
    """Number of the adapter."""
    predictions: Sequence[Prediction]


@dataclass(frozen=True, eq=False)
class Study:
    """All figures of an analysis."""

    base: str
    top_k: int
    adapters: tuple[AdapterInfo, ...]
    layers: tuple[Layer, ...]
    interference: Interference | None
    timestep_profile: bool
    trajectories: tuple[Trajectory, ...]
    remarks: tuple[str, ...]
    seconds: float
    together: Mapping[tuple[int, int], Together] = field(default_factory=dict)
    """What pairs do to the base's predictions, for those that record token and class."""

    @property
    def names(self) -> list[str]:
        """Short names of the adapters, with numbers where they are alike."""
        names = [info.name for info in self.adapters]
        return [f"{n} ({names[:i].count(n) + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)]

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """All pairs of adapters."""
        return list(combinations(range(len(self.adapters)), 2))

    def pair(self, a: int, b: int, block: str | None = None) -> dict[str, Any]:
        """Means over the layers (of one block), see analysis.summarize."""
        return summarize([layer for layer in self.layers if block in (None, block_of(layer.name))], a, b)

    def same_seed(self, a: int, b: int) -> bool:
        """Whether both started from the same random values and saw the same noise: alike whatever the subjects.

        True only if both files record it.
        """
        one, other = self.adapters[a], self.adapters[b]
        return one.seed is not None and (one.seed, one.method) == (other.seed, other.method)

    def relation(self, a: int, b: int) -> str | None:
        """One of RELATIONS; None if subjects are not named. Pairs from one seed are a kind of their own."""
        one, other = self.adapters[a], self.adapters[b]
        if one.subject is None:
            return None
        if self.same_seed(a, b):
            return "same seed"
        if one.subject == other.subject:
            return "same subject"
        return "same class" if one.class_word and one.class_word == other.class_word else "different class"

    def relations(self) -> dict[str, dict[str, Any]]:
        """Relation -> mean overlap of its pairs with an interval of two standard errors over the layers."""
        found = {}
        for name in RELATIONS:
            pairs = {numbers for numbers in self.numbers if self.relation(*numbers) == name}
            if not pairs:
                continue
            shares = []
            for layer in self.layers:
                here = [p for p in layer.pairs if (p.a, p.b) in pairs and p.shared is not None and p.chance is not None]
                if here:
                    shares.append(sum((p.shared or 0) / p.k - (p.chance or 0) / p.k for p in here) / len(here))
            overlaps = [value for a, b in pairs if (value := self.pair(a, b)["overlap"]) is not None]
            mean, error = _mean_and_error(shares)
            found[name] = {
                "pairs": len(pairs),
                "overlap": sum(overlaps) / len(overlaps) if overlaps else None,
                "above_chance": mean,
                "above_chance_low": None if mean is None or error is None else mean - 2 * error,
                "above_chance_high": None if mean is None or error is None else mean + 2 * error,
                "lowest_pair": min(overlaps, default=None),
                "highest_pair": max(overlaps, default=None),
            }
        return found

    def health(self, number: int) -> dict[str, Any]:
        """Of one adapter, over its layers: medians, and how many layers are odd."""
        seen = [layer.seen[number] for layer in self.layers if number in layer.seen]
        healths = [one.health for one in seen]

        def middle(values: Sequence[float | None]) -> float | None:
            known = sorted(value for value in values if value is not None)
            return known[len(known) // 2] if known else None

        return {
            "layers": len(healths),
            "norm": math.sqrt(sum(h.norm**2 for h in healths)),
            "relative": middle([h.relative for h in healths]),
            "relative_max": max((h.relative for h in healths if h.relative is not None), default=None),
            "rank": max((h.rank for h in healths), default=0),
            "stable_rank": middle([h.stable_rank for h in healths]),
            "rank_for_90_percent": middle([h.energy for h in healths]),
            "trim_to": max((h.trim for h in healths), default=0),
            "trim_to_median": middle([h.trim for h in healths]),
            "trimmed_parameters": sum(
                max(1, layer.seen[number].health.trim) * sum(layer.shape)
                for layer in self.layers
                if number in layer.seen
            ),
            "near_zero_layers": sum(h.near_zero for h in healths),
            "intruder_dimensions": sum(h.intruders or 0 for h in healths)
            if any(h.intruders is not None for h in healths)
            else None,
            "intruders_not_defined": sum(h.intruders is None for h in healths),
            "tsd_index": middle([one.position.index for one in seen if one.position]),
            "tsd_log_sigma": middle([one.position.log_sigma for one in seen if one.position]),
            "amplification": {
                name: middle([one.amplification.get(name) for one in seen])
                for name in sorted({name for one in seen for name in one.amplification})
            },
            "core_share": middle([float(one.shares.core.sum()) for one in seen if one.shares]),
            "core_share_chance": middle([one.shares.core_by_chance for one in seen if one.shares]),
        }

    def free_columns(self) -> list[tuple[int, float]]:
        """(column_offset for a Spectral Adapter of rank 8, most that an adapter uses it): least used first."""
        columns = [[s.columns for s in layer.seen.values() if len(s.columns)] for layer in self.layers]
        return free_columns(columns, SPECTRAL_WIDTH, SPECTRAL_BLOCKS)

    def blocks(self) -> list[str]:
        """Those that have layers."""
        found = {block_of(layer.name) for layer in self.layers}
        return [block for block in BLOCKS if block in found]


def _mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5
