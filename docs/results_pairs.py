"""What docs/results.md says of two subjects in one picture."""

from __future__ import annotations

from typing import Any

from docs.results_speed import missing, of_earlier_base
from dreamtune.training.reference import table

TITLE = "Two subjects in one picture"
_COLUMNS = {
    "joint": "joint success",
    "swap": "swap",
    "omission": "omission",
    "retention": "retention",
    "leakage": "leakage",
}
_TEXT = """## {title}

`make bench-pairs`. Six unseen subjects of the embedded base's world, three cats and three dogs, trained alone by LoRA,
by Spectral Adapter on column blocks of their own and by orthogonal LoRA ({steps} steps, rank {rank}, all from seed 0),
brought together in twelve pairs, "A on the left and B on the right" in ten places, one picture each.

* **Joint success**: each is in its place, more like itself than like the other, and at least half as much as by its
  own adapter alone in the same place. **Swap**: the same in each other's place. **Omission**: there is one only, or
  both are more like the same one.
* **Retention**: likeness beyond the base's, over that of each adapter alone in the same place. **Leakage**: likeness to
  the other subject, beyond that of the adapter alone.
* In parentheses: 95 % intervals by bootstrap over pairs. [What they say](fusion.md#what-each-does).
"""


def pairs(report: dict[str, Any] | None) -> str:
    """The section."""
    if report is None:
        return missing(TITLE, "make bench-pairs")
    parts = [_TEXT.format(title=TITLE, **report), *filter(None, [of_earlier_base(report)])]
    for kind, title in (("all", "All twelve"), ("same class", "Of one class"), ("two classes", "A cat and a dog")):
        body = [[way, *(_cell(kinds[kind][name]) for name in _COLUMNS)] for way, kinds in report["summary"].items()]
        parts.append(f"{title}:\n\n" + table([kind, *_COLUMNS.values()], body))
    return "\n".join(parts)


def _cell(values: list[float]) -> str:
    mean, low, high = values
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
