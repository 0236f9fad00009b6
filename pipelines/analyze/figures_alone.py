"""Figures of each adapter alone, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from dreamtune.analysis import Layer
from dreamtune.pipelines.analyze.study import Study, block_of

COLORS = ("#1f6fb4", "#c8442f", "#2a9d4a", "#8e5bb5", "#d08a1d", "#4aa3a2", "#8a8a8a", "#b0517c")
_MAPS = 4
"""Adapters whose maps are shown."""

SPECTRUM = (
    "Where in the weight's spectrum each adapter acts, in the layer {layer}. Left: the rate of change of every "
    "direction of the base's weight, from its strongest (0) to its weakest. Middle: the same against the direction's "
    "strength on a logarithmic scale; task-specific directions (dots) tend to be weak but not the weakest. Right: "
    "rates in descending order; a steep start means that a few directions do most of the work."
)
PROJECTIONS = (
    "What each adapter does to the weight of the layer {layer}, in terms of the weight's own directions. Maps: each "
    "cell is the part of the change that reads one band of the weight's input directions (across, strongest first) and "
    "writes to one band of its output directions (down); yellow is ten times an even share, dark violet a tenth. On "
    "the dashed diagonal (the core), the change strengthens or weakens directions the weight already has; off the "
    "diagonal, it connects directions that the weight keeps apart. Right: the parts along single directions in "
    "descending order, in the core (solid) and anywhere (dashed). The directions in the other figures are core "
    "directions."
)
TRAJECTORY = (
    "How early a training shows which directions it will change most. Recall: the share of the true top {half} that "
    "are in its top {k} at that step. Accuracy: the share of its top {k} that are in the true top {twice}. The true "
    "directions are those of the adapter named second."
)
HEALTH = (
    "Size and concentration of each adapter, layer by layer. Top: change relative to the weight; if images look burnt, "
    "suspect a layer far above the others first. Bottom: stable rank, the number of directions that really matter; if "
    "it is far below the adapter's rank, a smaller rank would do."
)


def spectrum(study: Study) -> Figure:
    """δ over the spectrum of one layer, in three panels."""
    layer = most_changed(study)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    by_index, by_sigma, ordered = figure.subplots(1, 3)
    sigma = layer.sigma.clamp_min(1e-12)
    for (number, seen), color in zip(layer.seen.items(), COLORS * len(layer.seen), strict=False):
        rates = seen.rates.clamp_min(1e-12)
        by_index.plot(rates, ".", color=color, markersize=2, alpha=0.5)
        by_index.plot(seen.tsd, rates[seen.tsd], "o", color=color, markersize=5)
        by_sigma.plot(sigma, rates, ".", color=color, markersize=2, alpha=0.5)
        by_sigma.plot(sigma[seen.tsd], rates[seen.tsd], "o", color=color, markersize=5)
        ordered.plot(rates.sort(descending=True).values, color=color, label=study.names[number])
    for axes, label in ((by_index, "direction index"), (by_sigma, "strength σ"), (ordered, "position by rate")):
        axes.set_yscale("log")
        axes.set_ylim(bottom=1e-7)
        axes.set_xlabel(label)
        axes.tick_params(labelsize=7)
    by_sigma.set_xscale("log")
    by_sigma.invert_xaxis()
    by_index.set_ylabel("rate of change δ")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def projections(study: Study) -> Figure:
    """The change of one layer in the basis of the weight's singular vectors: maps of all directions, and the core."""
    layer = most_changed(study)
    shown = [(number, seen.shares) for number, seen in layer.seen.items() if seen.shares][:_MAPS]
    figure = Figure(figsize=(9, 2.3 + 1.9 * ((len(shown) + 1) // 2)), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(3, 2))
    left, right = halves
    maps = left.subplots((len(shown) + 1) // 2, 2, squeeze=False)
    curves = right.subplots()
    count = len(layer.sigma)
    for axes in maps.flat[len(shown) :]:
        axes.remove()
    for axes, (number, shares), color in zip(maps.flat, shown, COLORS, strict=False):
        even = shares.grid / shares.grid.mean()
        axes.imshow(even.clamp_min(1e-9).log10(), vmin=-1, vmax=1, extent=(0, count, count, 0), cmap="viridis")
        axes.plot([0, count], [0, count], "--", color="white", linewidth=0.8)
        axes.set_title(study.names[number], fontsize=8)
        axes.set_xlabel("input direction", fontsize=7)
        axes.set_ylabel("output direction", fontsize=7)
        axes.tick_params(labelsize=7)
        places = range(1, count + 1)
        core = shares.core.sort(descending=True).values
        curves.plot(places, core.clamp_min(1e-12), color=color, label=study.names[number])
        curves.plot(places, shares.falling.clamp_min(1e-12), "--", color=color)
    curves.set_xscale("log")
    curves.set_yscale("log")
    curves.set_ylim(bottom=1e-8)
    curves.set_xlabel("position by size")
    curves.set_ylabel("share of ‖ΔW‖²")
    curves.tick_params(labelsize=7)
    curves.legend(fontsize=7)
    return figure


def trajectory(study: Study) -> Figure:
    """Recall and accuracy of each run's directions against each adapter's, over its steps."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for one, color in zip(study.trajectories, COLORS * len(study.trajectories), strict=False):
        steps = [prediction.step for prediction in one.predictions]
        for name, line in (("recall", "o-"), ("accuracy", "s--")):
            values = [getattr(prediction, name) for prediction in one.predictions]
            known = [float("nan") if value is None else value for value in values]
            label = f"{name}: {one.run} for {study.names[one.true]}"
            axes.plot(steps, known, line, color=color, markersize=4, label=label)
    axes.set_xlabel("training step")
    axes.set_ylabel("share found")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def health(study: Study) -> Figure:
    """Size and stable rank of every layer's change."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    sizes, ranks = figure.subplots(2, 1, sharex=True)
    for number, color in zip(range(len(study.adapters)), COLORS * len(study.adapters), strict=False):
        seen = [layer.seen.get(number) for layer in study.layers]
        relative = [one.health.relative if one and one.health.relative else float("nan") for one in seen]
        stable = [one.health.stable_rank if one and one.health.stable_rank else float("nan") for one in seen]
        sizes.plot(relative, "o-", color=color, markersize=3, linewidth=0.8, label=study.names[number])
        ranks.plot(stable, "o-", color=color, markersize=3, linewidth=0.8)
    sizes.set_yscale("log")
    sizes.set_ylabel("‖ΔW‖ / ‖W‖")
    ranks.set_ylabel("stable rank of ΔW")
    ranks.set_ylim(bottom=0)
    name_blocks(ranks, study.layers)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def most_changed(study: Study) -> Layer:
    """The layer whose spectrum is shown: the one that all adapters together change most."""

    def size(layer: Layer) -> tuple[int, float]:
        return len(layer.seen), sum(one.health.relative or 0 for one in layer.seen.values())

    return max(study.layers, key=size)


def name_blocks(axes: Any, layers: Sequence[Layer]) -> None:
    """Label the axis of layers with the blocks that they belong to."""
    blocks = [block_of(layer.name) for layer in layers]
    starts = [i for i, block in enumerate(blocks) if i == 0 or block != blocks[i - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="#999999", linewidth=0.8)
    axes.set_xticks(starts, [f"{blocks[start]} →" for start in starts], fontsize=8)
    axes.set_xlim(-0.5, max(len(layers) - 0.5, 0.5))
    axes.set_xlabel("layers in order, by block")
