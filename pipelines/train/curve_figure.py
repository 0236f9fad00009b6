"""The curve of a training's scores as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dreamtune.evaluation import Score
from dreamtune.evaluation.best_step import MAX_LEAK, PROMPT_SHARE
from dreamtune.storage import atomic


def draw_curve(path: Path, scores: Sequence[Score], best: Score | None) -> None:
    """Write a PNG of the scores over the steps, with the best step and the limits that the best step must keep.

    scores: at least one, in order. Raises OSError.
    """
    # Not pyplot, which would keep figures and choose a window system for the whole process.

    base = scores[0].prompt_base
    steps = [0, *(score.step for score in scores)]
    curves = {
        "subject fidelity": ([0.0, *(score.subject for score in scores)], "#1f6fb4", "-"),
        "prompt fidelity": ([base, *(score.prompt for score in scores)], "#2a9d4a", "-"),
        "leak": ([0.0, *(score.leak for score in scores)], "#c8442f", "-"),
        "drift": ([0.0, *(score.drift for score in scores)], "#8a8a8a", "--"),
    }
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for label, (values, color, line) in curves.items():
        axes.plot(steps, values, line, color=color, marker="o", markersize=4, label=label)
    axes.axhline(PROMPT_SHARE * base, color="#2a9d4a", linewidth=0.8, linestyle=":")
    axes.axhline(MAX_LEAK, color="#c8442f", linewidth=0.8, linestyle=":")
    if best is not None:
        axes.axvline(best.step, color="#333333", linewidth=1)
        axes.annotate(f" best: {best.step}", (best.step, 1), xycoords=("data", "axes fraction"), va="bottom")
    axes.set_xlabel("step (dotted: minimum prompt fidelity and maximum leak for the best step)")
    axes.set_xlim(0, steps[-1])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
