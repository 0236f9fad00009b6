"""What docs/results.md says of adapters next to others: where they respond, and what an analysis predicts."""

from __future__ import annotations

from typing import Any

from docs.results_speed import missing, of_earlier_base
from dreamtune.training.reference import table

_FORMS = (
    *("alone", "first, left", "first, right", "second, right", "second, left"),
    *("beside its class", "the other of its class", "leak"),
)


def anywhere(report: dict[str, Any] | None) -> str:
    """Whether an adapter responds wherever its token stands."""
    title = "One adapter, with its token anywhere in the prompt"
    if report is None:
        return missing(title, "make bench-anywhere")
    rows = [it | {"subject": it["subject"] + ("" if it["token_known_to_base"] else " *")} for it in report["subjects"]]
    body = [
        [row["subject"], *(f"{row[form]:.2f}" for form in _FORMS), f"{row['kept_as_second']:.2f}"]
        for row in [*rows, {"subject": "mean", **report["mean"]}]
    ]
    composed = report["compose"]
    text = (
        f"`make bench-anywhere`: six unseen subjects, LoRA, {report['steps']} steps"
        f"{f' with `compose: {composed:g}`' if composed else ''}. Likeness to unseen images of the subject in ten "
        f"places. The other thing is a {report['other']}, which no training had. "
        '"Beside its class" is the right cat in "a cat on the left and a sks cat on the right", "the other of its '
        'class" the left one; leak is "a cat". Kept: likeness as the second of two, relative to alone. An asterisk '
        "marks tokens that the base was never trained with.\n"
    )
    parts = [f"## {title}\n", *filter(None, [of_earlier_base(report)]), text]
    return "\n".join([*parts, table(["", *_FORMS, "kept"], body)])


def foretold(report: dict[str, Any] | None) -> str:
    """What an analysis predicts for two adapters."""
    title = "What an analysis predicts"
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
        f"`make bench-foretold`. **Are two adapters of one subject?** {len(count['same'])} pairs of one subject and "
        f"{len(count['other'])} of two subjects of one class, trained with {', '.join(report['trainings'])} and, with "
        f"other seeds, {', '.join(report['more'])}. Area under the ROC curve, the lowest value for one subject and the "
        "highest for two:\n"
    )
    told = (
        f"**What will each lose in an image of both, added up?** Rank correlation with the lost likeness, for "
        f"{len(report['ways'])} ways. A figure is chosen on the even-numbered pairs and tested on the others:\n"
    )
    parts = [f"## {title}\n", *filter(None, [of_earlier_base(report)]), text]
    return "\n".join(
        [
            *parts,
            table(["figure", "area", "one subject, lowest", "two, highest"], first),
            told,
            table(["figure", "pairs it was chosen on", "pairs it was tested on", "all"], second),
        ]
    )


_PARTS = ("chosen_on", "judged_on", "all")


def _rho(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"
