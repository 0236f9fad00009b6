"""What two adapters will do in one picture, in sentences a person can act on, with how far they were found to hold."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dreamtune.pipelines.analyze.effects import Together

RELIABILITY = Path(__file__).with_name("foretold.json")
"""What `python -m benchmarks.foretold` measured, as far as it is said here; a part of the package."""
MEASURED_ON = "pocket"
ALIKE = 0.65
"""Agreement from which on two adapters are said to be of one subject: between the least of one subject and the most of
two that were measured."""
HEARD = 0.6
"""What is left of an adapter in a picture of two below which it is said to be lost."""
TELLS = 0.5
"""Rank correlation below which a figure is said to tell nothing: then nothing is recommended from it."""


@cache
def reliability() -> dict[str, Any] | None:
    """What was measured; None where the package has none."""
    return json.loads(RELIABILITY.read_text(encoding="utf-8")) if RELIABILITY.is_file() else None


def sentences(names: Sequence[str], pair: tuple[int, int], together: Together) -> list[str]:
    """Whether both are of one subject, and what each will lose where both are in one picture."""
    a, b = (names[number] for number in pair)
    if math.isnan(together.agreement):
        return [f"{a} and {b}: one of them changes nothing, so that there is nothing to compare."]
    if together.agreement >= ALIKE:
        return [
            f"{a} and {b} do the same to a picture (agreement {together.agreement:.2f}): they are of one subject. Use "
            "one of them."
        ]
    lines = [f"{a} and {b} do different things to a picture (agreement {together.agreement:.2f}): two subjects."]
    if _tells_losses() is not False and not any(map(math.isnan, together.left)):
        lines.append(_left(a, b, together))
    return lines


def _left(a: str, b: str, together: Together) -> str:
    first, second = together.left
    told = f"Added up in one picture, {a} is left with {first:.0%} of what it does alone and {b} with {second:.0%}."
    if not _tells_losses():  # a figure nobody has checked is shown, and nothing is recommended from it
        return told
    lost = [name for name, share in ((a, first), (b, second)) if share < HEARD]
    if not lost:
        return f"{told} Both can act at once; in a place of its own (--layout auto) each is disturbed least."
    return (
        f"{told} {' and '.join(lost)} would be lost: give each a place of its own (--layout auto), or train with "
        "compose, which shows the subject beside others."
    )


def _tells_losses() -> bool | None:
    """Whether what is left of each was found to tell losses; None if nobody has measured it."""
    measured = reliability()
    return None if measured is None else (measured["loss"]["judged_on"] or 0.0) >= TELLS


def footnote(base: str) -> str:
    """How far these sentences were found to hold."""
    measured = reliability()
    if measured is None:
        return "How far this holds was not measured, so nothing is recommended from it."
    same, loss = measured["same_subject"], measured["loss"]
    told = (
        f"Agreement told adapters of one subject from those of two of a class in {same['auc']:.0%} of all comparisons "
        f"({same['same']} and {same['other']} pairs on {MEASURED_ON}; one subject {same['least_same']:.2f} at least, "
        f"two {same['most_other']:.2f} at most). "
    )
    if _tells_losses():
        told += (
            f"What is left of each followed what pictures of two lost by a rank correlation of {loss['judged_on']:.2f} "
            f"on pairs that were not used to choose it ({loss['all']:.2f} over all {loss['ways']})."
        )
    else:
        told += (
            "Nothing that was tried tells what each loses in a picture of two (rank correlation "
            f"{loss['judged_on'] or 0.0:.2f} on pairs that were not used to choose it): so nothing is said of it here."
        )
    return told if base == MEASURED_ON else f"{told} On {base} it was not measured."
