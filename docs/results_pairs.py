"""What docs/results.md says of two subjects in one image."""

from __future__ import annotations

from typing import Any

from docs.results_speed import missing, of_earlier_base
from dreamtune.training.reference import table

TITLE = "Two subjects in one image"
_COLUMNS = {
    "joint": "joint success",
    "swap": "swap",
    "omission": "omission",
    "retention": "retention",
    "leakage": "leakage",
    "strict": "strict",
}
"""Figures of older runs lack some."""
_STRICT = """* **Strict**: each is in its place, more like itself than the other, with a likeness of at least .5."""
_TRIPLES = """Strict success for three subjects, a cat, a dog and another cat from left to right, as the mean of {count}
triples:
"""
_TRAININGS = {"blocks": "Spectral Adapters on separate column blocks", "orthogonal": "orthogonal LoRA"}
"""Way that needs a training of its own -> that."""
_NOT_MEASURED = ("gradient", *_TRAININGS)
"""Ways that take long: a run may leave them out, which is said."""
_SEEDS = {"one": "all with seed 0", "own": "each with a different seed"}
_TEXT = """## {title}

`make bench-pairs`. Six unseen subjects of the embedded base's world, three cats and three dogs, trained separately with
{trainings} ({steps} steps, rank {rank}, {seeds}),
combined in twelve pairs, "A on the left and B on the right" in ten places, one image each.

* **Joint success**: each subject is in its place, more like itself than like the other, and at least half as much like
  itself as with its own adapter alone in the same place. **Swap**: the same in each other's place. **Omission**: only
  one subject is there, or both are more like the same one.
* **Retention**: likeness beyond the base's, relative to that of each adapter alone in the same place. **Leakage**:
  likeness to the other subject, beyond that of the adapter alone.
* In parentheses: 95 % bootstrap intervals over pairs. [What they mean](fusion.md#how-well-each-way-works).
"""


def pairs(report: dict[str, Any] | None) -> str:
    """The section."""
    if report is None:
        return missing(TITLE, "make bench-pairs")
    ways = report["summary"]
    trainings = ", ".join(["LoRA", *(text for way, text in _TRAININGS.items() if way in ways)])
    left_out = [f"`{way}`" for way in _NOT_MEASURED if way not in ways]
    if left_out:
        trainings += f"\n(not measured on today's base: {', '.join(left_out)})"
    parts = [
        _TEXT.format(
            title=TITLE,
            trainings=trainings,
            seeds=_SEEDS[report.get("seeds", "one")],
            steps=report["steps"],
            rank=report["rank"],
        ),
        *filter(None, [of_earlier_base(report)]),
    ]
    columns = {it: title for it, title in _COLUMNS.items() if it in next(iter(report["summary"].values()))["all"]}
    if "strict" in columns:
        parts.append(_STRICT + "\n")
    for kind, title in (("all", "All twelve pairs"), ("same class", "Same class"), ("two classes", "A cat and a dog")):
        body = [[way, *(_cell(kinds[kind][name]) for name in columns)] for way, kinds in report["summary"].items()]
        parts.append(f"{title}:\n\n" + table([kind, *columns.values()], body))
    if triples := report.get("triples"):
        ways = [way for way in triples[0] if way != "triple"]
        means = [f"{sum(it[way] for it in triples) / len(triples):.2f}" for way in ways]
        parts.append(f"{_TRIPLES.format(count=len(triples))}\n" + table(ways, [means]))
    return "\n".join(parts)


def _cell(values: list[float]) -> str:
    mean, low, high = values
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
