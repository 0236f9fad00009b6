"""A claim as a row of the table: differences that have to be above 0, and what their intervals say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.quality_statistics import interval, verdict

Values = Mapping[str, float]
"""Subject -> figure."""
DASH, DORA = "LoRA-Dash, arXiv 2409.01035", "DoRA, arXiv 2402.09353"
SPECTRAL, LYCORIS = "Spectral Adapter, arXiv 2405.13952", "LyCORIS, arXiv 2309.14859"
RS = "rsLoRA, arXiv 2312.03732"


def row(claim: str, source: str, criterion: str, differences: Mapping[str, Values]) -> dict[str, Any]:
    """A claim that holds if all of its differences are above 0, and does not if one is below.

    differences: what is compared -> subject -> figure.
    """
    found = {name: interval(values) for name, values in differences.items()}
    each = {name: verdict(it) for name, it in found.items()}
    overall = "does not" if "does not" in each.values() else "unclear" if "unclear" in each.values() else "holds"
    told = "; ".join(f"{name} {it.mean:+.2f} ({it.low:+.2f} to {it.high:+.2f})" for name, it in found.items())
    return {
        "claim": claim,
        "source": source,
        "criterion": criterion,
        "measured": told,
        "differences": {name: it.to_dict() | {"verdict": each[name]} for name, it in found.items()},
        "verdict": overall,
    }
