"""Figures of how adapters act during denoising, and on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from dreamtune.pipelines.analyze.figures_alone import COLORS, name_blocks
from dreamtune.pipelines.analyze.study import Study, block_of

CROSSTALK = (
    "What adding one adapter (column) does to images of another (row), predicted from what the layers saw while the "
    "row's adapter generated: the squared size of the added change relative to the adapter's own. Below 1 (blue), its "
    "own change is larger. Top: all layers together. Bottom: layer by layer for each pair, both ways. This shows how "
    "large a disturbance is, not whether images suffer: in 45 pairs on the embedded base, with X from 0.3 to 1.5, the "
    "loss of likeness did not follow it."
)
TIMESTEPS = (
    "When each adapter acts: the share of the layers' outputs that comes from its change, at each denoising step from "
    "noise to image. Early steps decide the layout, late steps the detail."
)


def crosstalk(study: Study) -> Figure:
    """X of all layers together as a matrix, and of every layer in a row for each ordered pair."""
    assert study.interference is not None
    names, n = study.names, len(study.adapters)
    ways = [(i, j) for a, b in study.numbers for i, j in ((a, b), (b, a))]
    heights = 1.2 + 0.35 * n, 0.8 + 0.17 * max(len(ways), 6)
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    whole, by_layer = figure.subplots(2, 1, height_ratios=heights)
    total = [[x if x > 0 else float("nan") for x in row] for row in study.interference.total().tolist()]
    whole.imshow(_logs(total), cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
    whole.set_xticks(range(n), names, rotation=45, ha="right", fontsize=8)
    whole.set_yticks(range(n), names, fontsize=8)
    whole.set_xlabel("added", fontsize=8)
    whole.set_ylabel("generating", fontsize=8)
    for row, values in enumerate(total):
        for column, value in enumerate(values):
            if value == value:  # not NaN
                whole.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=8)
    found = [study.interference.layer(layer.name) for layer in study.layers]
    rows = [[float(x[i, j]) if x[i, j] > 0 else float("nan") for x in found] for i, j in ways]
    image = by_layer.imshow(_logs(rows), cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto", interpolation="nearest")
    by_layer.set_yticks(range(len(ways)), [f"{names[j]} on {names[i]}" for i, j in ways], fontsize=7)
    name_blocks(by_layer, study.layers)
    bar = figure.colorbar(image, ax=[whole, by_layer], ticks=[-2, -1, 0, 1, 2], aspect=40)
    bar.ax.set_yticklabels(["0.01", "0.1", "1", "10", "100"])
    bar.set_label("crosstalk X", fontsize=8)
    return figure


def _logs(rows: Sequence[Sequence[float]]) -> Any:
    return torch.tensor(rows, dtype=torch.float64).log10()


def timesteps(study: Study) -> Figure:
    """The share of the outputs that comes from each adapter, over the denoising steps."""
    assert study.interference is not None
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    names = [layer.name for layer in study.layers if block_of(layer.name) != "text"]
    for number, color in zip(range(len(study.adapters)), COLORS * len(study.adapters), strict=False):
        profile = study.interference.profile(number, names)
        values = [float("nan") if value is None else value for value in profile]
        axes.plot(range(1, len(values) + 1), values, "o-", color=color, markersize=4, label=study.names[number])
    axes.set_xlabel("denoising step, from noise (1) to image")
    axes.set_ylabel("change / output")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure
