"""The figures of docs/results.md."""

from __future__ import annotations

import hashlib
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from benchmarks.machine import RESULTS
from benchmarks.quality_statistics import by_subject, interval


def digest(*names: str) -> str:
    """Of the files that a figure is made from; it is written into the figure."""
    return hashlib.sha256(b"".join((RESULTS / name).read_bytes() for name in names)).hexdigest()[:16]


def draw_figure(report: dict[str, Any]) -> Figure:
    """A dot for the subject fidelity of each method, with its interval, and a ring for its prompt fidelity."""
    budgets, methods = sorted({run["budget"] for run in report["runs"]}), report["coverage"]["methods"]
    figure = Figure(figsize=(3.2 * len(budgets) + 1.6, 4.2), layout="constrained")
    for i, (budget, axes) in enumerate(
        zip(budgets, figure.subplots(1, len(budgets), sharex=True, sharey=True, squeeze=False)[0], strict=True)
    ):
        for place, method in enumerate(methods):
            own = [run for run in report["runs"] if (run["budget"], run["method"]) == (budget, method)]
            found = interval(by_subject(own, "fidelity"))
            color = "#8a8a8a" if method.startswith("PEFT") else "#1f6fb4"
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=2)
            axes.plot(found.mean, place, "o", color=color, label=None if place else "subject fidelity")
            asked = interval(by_subject(own, "prompt")).mean
            axes.plot(asked, place, "o", color=color, fillstyle="none", label=None if place else "prompt fidelity")
        axes.set_title(f"{budget:,} trained numbers", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        if not i:
            axes.set_yticks(range(len(methods)), methods)
            axes.invert_yaxis()
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_pictures(report: dict[str, Any], sheet: Image.Image) -> Figure:
    """The photographs and the strips of pictures, with the names of the methods beside them."""
    names = ["photographs", *report["coverage"]["methods"]]
    width, height = sheet.size
    figure = Figure(figsize=(7, 7 * height / width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet, interpolation="nearest")
    row = height / len(names)
    axes.set_yticks([row * (i + 0.5) for i in range(len(names))], names)
    axes.set_xticks([])
    return figure
