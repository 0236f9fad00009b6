"""What docs/results.md says of adapters beside others: where they are heard, and what an analysis tells beforehand."""

from __future__ import annotations

from typing import Any

from docs.results_speed import missing, of_earlier_base
from dreamtune.training.reference import table

_FORMS = (
    *("alone", "first, left", "first, right", "second, right", "second, left"),
    *("beside its class", "the other of its class", "leak"),
)


def anywhere(report: dict[str, Any] | None) -> str:
    """Whether an adapter is heard wherever its word stands."""
    title = "One adapter, wherever its word stands"
    if report is None:
        return missing(title, "make bench-anywhere")
    rows = [it | {"subject": it["subject"] + ("" if it["token_known_to_base"] else " *")} for it in report["subjects"]]
    body = [
        [row["subject"], *(f"{row[form]:.2f}" for form in _FORMS), f"{row['kept_as_second']:.2f}"]
        for row in [*rows, {"subject": "mean", **report["mean"]}]
    ]
    composed = report["compose"]
    text = (
        f"`make bench-anywhere`: six unseen subjects by LoRA, {report['steps']} steps"
        f"{f' with `compose: {composed:g}`' if composed else ''}. Likeness to unseen pictures of the subject in ten "
        f"places, a {report['other']} as the other thing, which no training had. "
        '"Beside its class" is the right one of "a cat on the left and a sks cat '
        'on the right", "the other of its class" the left one; leak is "a cat". Kept: the second of two over alone. An '
        "asterisk: the base was never trained with that word.\n"
    )
    parts = [f"## {title}\n", *filter(None, [of_earlier_base(report)]), text]
    return "\n".join([*parts, table(["", *_FORMS, "kept"], body)])


def foretold(report: dict[str, Any] | None) -> str:
    """What an analysis tells of two adapters."""
    title = "What an analysis tells beforehand"
    if report is None:
        return missing(title, "make bench-foretold")
    apart, loss = report["same_subject"], report["loss"]
    first = [
        [name, f"{it['auc']:.2f}", f"{min(it['same']):.2f}", f"{max(it['other']):.2f}"] for name, it in apart.items()
    ]
    count = next(iter(apart.values()))
    second = [
        [name + (" (chosen)" if name == loss["chosen"] else ""), *(_rho(it[part]) for part in _PARTS)]
        for name, it in loss["figures"].items()
    ]
    text = (
        f"`make bench-foretold`. **Are two adapters of one subject?** {len(count['same'])} pairs of one subject, "
        f"{len(count['other'])} of two subjects of a class, of trainings by {', '.join(report['trainings'])} and, with "
        f"other seeds, {', '.join(report['more'])}. Area under the ROC curve; the least of one subject and the most of "
        "two:\n"
    )
    told = (
        f"**What will each lose in a picture of both, added up?** Rank correlation with the likeness lost, "
        f"{len(report['ways'])} ways; a figure is chosen on the pairs of even number and judged on the others:\n"
    )
    parts = [f"## {title}\n", *filter(None, [of_earlier_base(report)]), text]
    return "\n".join(
        [
            *parts,
            table(["figure", "area", "one subject, least", "two, most"], first),
            told,
            table(["figure", "where it was chosen", "where it was judged", "all"], second),
        ]
    )


_PARTS = ("chosen_on", "judged_on", "all")


def _rho(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"
