"""The result of `analyze`: plain values for programs, a page for notebooks."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamtune.analysis import Layer, Seen, Shares
from dreamtune.pipelines.analyze.advice import advice
from dreamtune.pipelines.analyze.effects import Together
from dreamtune.pipelines.analyze.page import body, document, drawn
from dreamtune.pipelines.analyze.study import Study, block_of

VERSION = 1
"""Of the schema of report.json."""


class Report(Study):
    """A study that shows itself as a page with figures at the end of a notebook's cell."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for undefined ones."""
        values = {
            "version": VERSION,
            "base": self.base,
            "top_k": self.top_k,
            "adapters": [
                asdict(info) | {"name": name, "health": self.health(i)}
                for i, (info, name) in enumerate(zip(self.adapters, self.names, strict=True))
            ],
            "layers": [self._layer(layer) for layer in self.layers],
            "pairs": [
                self.pair(a, b)
                | {"relation": self.relation(a, b), "together": _together(self.together.get((a, b)))}
                | {"blocks": {block: self.pair(a, b, block) for block in self.blocks()}}
                for a, b in self.numbers
            ],
            "relations": self.relations(),
            "interference": self._interference(),
            "trajectories": [asdict(one) for one in self.trajectories],
            "free_columns": [{"column_offset": offset, "used": share} for offset, share in self.free_columns()],
            "advice": advice(self),
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }
        return _plain(values)

    def _repr_html_(self) -> str:
        return body(self)

    def _layer(self, layer: Layer) -> dict[str, Any]:
        numbers = range(len(self.adapters))
        return {
            "name": layer.name,
            "block": block_of(layer.name),
            "shape": list(layer.shape),
            "tsd": [layer.seen[n].tsd.tolist() if n in layer.seen else None for n in numbers],
            "adapters": [_seen(layer.seen[n]) if n in layer.seen else None for n in numbers],
            "pairs": [vars(pair) for pair in layer.pairs],
            "crosstalk": self.interference.layer(layer.name).tolist() if self.interference else None,
        }

    def _interference(self) -> dict[str, Any] | None:
        if self.interference is None:
            return None
        unet = {block: [la.name for la in self.layers if block_of(la.name) == block] for block in self.blocks()}
        profiles = [
            {block: self.interference.profile(n, names) for block, names in unet.items() if block != "text"}
            for n in range(len(self.adapters))
        ]
        return {
            "prompts": list(self.interference.prompts),
            "crosstalk": self.interference.total().tolist(),
            "advice": [asdict(advice) for advice in self.interference.advice()],
            "timestep_profiles": profiles if self.timestep_profile else None,
        }


def write_report(folder: Path, report: Report) -> None:
    """Write report.json, report.html and a PNG of each figure into the existing `folder`. Raises OSError."""
    pictures = list(drawn(report))
    for name, png, _ in pictures:
        (folder / f"{name}.png").write_bytes(png)
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(document(report, pictures), encoding="utf-8")


def _together(found: Together | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found) | {"left": list(found.left)}


def _seen(seen: Seen) -> dict[str, Any]:
    return {
        "rates": [float(seen.rates[index]) for index in seen.tsd],
        "core_shares": [float(seen.shares.core[index]) for index in seen.tsd] if seen.shares else [],
        "position": asdict(seen.position) if seen.position else None,
        "amplification": dict(seen.amplification),
        "projections": _shares(seen.shares) if seen.shares else None,
        "health": asdict(seen.health) | {"near_zero": seen.health.near_zero},
    }


def _shares(shares: Shares) -> dict[str, Any]:
    return {
        "core": float(shares.core.sum()),
        "core_chance": shares.core_by_chance,
        "global": shares.whole,
        "strongest_global": [{"left": i, "right": j, "share": share} for i, j, share in shares.strongest],
    }


def _plain(value: Any) -> Any:
    """The same with None for numbers that JSON cannot represent."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
