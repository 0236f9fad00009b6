"""What two adapters will do in one image, in sentences a person can act on, with their measured reliability."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dreamtune.pipelines.analyze.effects import Together

RELIABILITY = Path(__file__).with_name("foretold.json")
"""The part of what `python -m benchmarks.foretold` measured that is used here; shipped with the package."""
MEASURED_ON = "pocket"
ALIKE = 0.59
"""Agreement from which two adapters are said to be of one subject: between the lowest measured for one subject and the
highest measured for two."""
HEARD = 0.6
"""Remaining effect of an adapter in an image of two below which it is said to be lost."""
TELLS = 0.5
"""Rank correlation below which a measure is said to predict nothing: then nothing is recommended from it."""


@cache
def reliability() -> dict[str, Any] | None:
    """What was measured; None where the package has none."""
    return json.loads(RELIABILITY.read_text(encoding="utf-8")) if RELIABILITY.is_file() else None


def sentences(names: Sequence[str], pair: tuple[int, int], together: Together) -> list[str]:
    """Whether both are of one subject, and what each will lose in an image of both."""
    a, b = (names[number] for number in pair)
    if math.isnan(together.agreement):
        return [f"{a} and {b}: one of them changes nothing, so there is nothing to compare."]
    if together.agreement >= ALIKE:
        return [
            f"{a} and {b} do the same to an image (agreement {together.agreement:.2f}): they are of one subject. Use "
            "only one of them."
        ]
    lines = [f"{a} and {b} do different things to an image (agreement {together.agreement:.2f}): two subjects."]
    if _tells_losses() is not False and not any(map(math.isnan, together.left)):
        lines.append(_left(a, b, together))
    return lines


def _left(a: str, b: str, together: Together) -> str:
    first, second = together.left
    told = f"Summed in one image, {a} keeps {first:.0%} of the effect it has alone and {b} keeps {second:.0%}."
    if not _tells_losses():  # a figure nobody has checked is shown, and nothing is recommended from it
        return told
    lost = [name for name, share in ((a, first), (b, second)) if share < HEARD]
    if not lost:
        return f"{told} Both can act at once; a separate region for each (--layout auto) disturbs them least."
    return (
        f"{told} {' and '.join(lost)} would be lost: give each its own region (--layout auto), or train with "
        "compose, which shows the subject next to other things."
    )


def _tells_losses() -> bool | None:
    """Whether the remaining effect was found to predict losses; None if it was not measured."""
    measured = reliability()
    return None if measured is None else (measured["loss"]["judged_on"] or 0.0) >= TELLS


def footnote(base: str) -> str:
    """The measured reliability of these sentences."""
    measured = reliability()
    if measured is None:
        return "The reliability of this was not measured, so nothing is recommended from it."
    same, loss = measured["same_subject"], measured["loss"]
    told = (
        f"Agreement told adapters of one subject from adapters of two subjects of a class in {same['auc']:.0%} of all "
        f"comparisons ({same['same']} and {same['other']} pairs on {MEASURED_ON}; one subject: at least "
        f"{same['least_same']:.2f}, two subjects: at most {same['most_other']:.2f}). "
    )
    if _tells_losses():
        told += (
            f"What each keeps predicted the loss in images of two with a rank correlation of {loss['judged_on']:.2f} "
            f"on held-out pairs ({loss['all']:.2f} over all {loss['ways']})."
        )
    else:
        told += (
            "No measure that was tried predicts what each loses in an image of two (rank correlation "
            f"{loss['judged_on'] or 0.0:.2f} on held-out pairs), so none is shown here."
        )
    return told if base == MEASURED_ON else f"{told} This was not measured on {base}."
