"""The figures of an analysis, each with a caption for a reader who has never seen such a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from matplotlib.figure import Figure

from dreamtune.analysis import Layer
from dreamtune.pipelines.analyze import figures_alone as alone
from dreamtune.pipelines.analyze import figures_interference as interference
from dreamtune.pipelines.analyze.figures_alone import COLORS, name_blocks
from dreamtune.pipelines.analyze.study import Study

GRID_LAYERS, GRID_PAIRS = 4, 6
"""Columns and rows of the grid of matches; report.json has the numbers of all."""


def figures(study: Study) -> Iterator[tuple[str, Figure, str]]:
    """Name, figure and caption of each that is defined."""
    if study.numbers:
        yield "matches", _matches(study), _MATCHES.format(k=study.top_k)
        yield "overlap", _overlap(study), _OVERLAP
        yield "blocks", _by_block(study), _BLOCKS
        yield "matrices", _matrices(study), _MATRICES
    yield "spectrum", alone.spectrum(study), alone.SPECTRUM.format(layer=alone.most_changed(study).name)
    if any(seen.shares for seen in alone.most_changed(study).seen.values()):
        yield "projections", alone.projections(study), alone.PROJECTIONS.format(layer=alone.most_changed(study).name)
    if study.interference is not None and study.numbers:
        yield "crosstalk", interference.crosstalk(study), interference.CROSSTALK
    if study.interference is not None and study.timestep_profile:
        yield "timesteps", interference.timesteps(study), interference.TIMESTEPS
    if study.trajectories:
        k = study.top_k
        yield "trajectory", alone.trajectory(study), alone.TRAJECTORY.format(half=k // 2, k=k, twice=2 * k)
    yield "health", alone.health(study), alone.HEALTH


_MATCHES = (
    "Each square compares two adapters in one layer. Each axis lists the {k} directions of the base's weight that an "
    "adapter changes most relative to their strength, the most changed first (top left). A dark cell is a match: both "
    "lists contain that direction. A dark diagonal would mean the same directions in the same order; an empty square "
    "means that the two have nothing in common. Some matches are chance: see the next figure."
)
_OVERLAP = (
    "The share of directions that two adapters have in common, layer by layer from the noisy input to the output. The "
    "gray band is where 95% of pairs of unrelated changes of the same sizes fall on these very weights; the thin line "
    "is their mean. Only a pair above the band says something about the subjects in that layer. Compare means of many "
    "pairs with the thin line. The dotted line is the mean for adapters of one subject from two seeds, the most that "
    "can be expected."
)
_BLOCKS = "The same as means over the model's blocks; a selection if there are many pairs. Dark dashes: chance."
_MATRICES = (
    "Every pair at a glance. Overlap above chance: share of directions in common, minus what unrelated changes share. "
    "Rank-biased overlap above chance: the same, but the strongest directions count most. Cosine: whether the full "
    "changes point the same way (1), are unrelated (0) or cancel out (-1). Sign conflict: share of single weights "
    "pulled in opposite directions, minus what the cosine explains. A blank is undefined."
)


def _matches(study: Study) -> Figure:
    layers = [layer for layer in study.layers if layer.pairs]
    step = max(1, len(layers) // GRID_LAYERS)
    chosen = layers[step // 2 :: step][:GRID_LAYERS]
    pairs = _examples(study, GRID_PAIRS)
    figure = Figure(figsize=(2 + 1.7 * len(chosen), 0.8 + 1.8 * len(pairs)), layout="constrained")
    grid = figure.subplots(len(pairs), len(chosen), squeeze=False)
    for row, (a, b) in zip(grid, pairs, strict=True):
        for axes, layer in zip(row, chosen, strict=True):
            axes.set_xticks([0, study.top_k - 1], ["1", str(study.top_k)])
            axes.set_yticks([0, study.top_k - 1], ["1", str(study.top_k)])
            axes.tick_params(labelsize=7)
            if a in layer.seen and b in layer.seen:
                first, second = layer.seen[a].tsd, layer.seen[b].tsd
                match = (second[:, None] == first[None, :]).float()  # (of b, of a)
                if match.numel():
                    axes.imshow(match, cmap="Blues", vmin=0, vmax=1.3, extent=_cells(match.shape))
                axes.set_xlim(-0.5, study.top_k - 0.5)
                axes.set_ylim(study.top_k - 0.5, -0.5)
                axes.set_xlabel(study.names[a], fontsize=7)
            else:
                axes.text(0.5, 0.5, "undefined", ha="center", va="center", transform=axes.transAxes, fontsize=7)
            if axes in grid[0]:
                axes.set_title(_short(layer.name), fontsize=7)
        row[0].set_ylabel(study.names[b], fontsize=7)
    return figure


def _examples(study: Study, count: int) -> list[tuple[int, int]]:
    """At most `count` pairs, of each kind in turn."""
    kinds: dict[str | None, list[tuple[int, int]]] = {}
    for numbers in study.numbers:
        kinds.setdefault(study.relation(*numbers), []).append(numbers)
    turns = zip_longest(*kinds.values())
    return sorted([numbers for turn in turns for numbers in turn if numbers is not None][:count])


def _cells(shape: Sequence[int]) -> tuple[float, float, float, float]:
    return -0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5


def _overlap(study: Study) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    layers = [layer for layer in study.layers if layer.pairs]
    low, high, mean = [], [], []
    for layer in layers:
        known = [pair for pair in layer.pairs if pair.chance is not None]
        low.append(min(((p.chance_low or 0) / p.k for p in known), default=float("nan")))
        high.append(max(((p.chance_high or 0) / p.k for p in known), default=float("nan")))
        mean.append(sum((p.chance or 0) / p.k for p in known) / len(known) if known else float("nan"))
    x = range(len(layers))
    axes.fill_between(x, low, high, color="#cccccc", label="chance for a pair (95%)", step="mid")
    axes.plot(x, mean, color="#555555", linewidth=0.8, label="mean of chance")
    pairs = study.numbers if len(study.numbers) <= len(COLORS) else []
    for (a, b), color in zip(pairs, COLORS, strict=False):
        found = [next((p for p in layer.pairs if (p.a, p.b) == (a, b)), None) for layer in layers]
        shares = [p.shared / p.k if p and p.shared is not None and p.k else float("nan") for p in found]
        label = f"{study.names[a]} / {study.names[b]}"
        axes.plot(x, shares, "o-", color=color, markersize=3, linewidth=0.8, label=label)
    if not pairs:
        _means_of_relations(study, axes, layers)
    ceiling = study.relations().get("same subject", {}).get("overlap")
    if ceiling is not None:
        axes.axhline(ceiling, color="#333333", linestyle=":", label="same subject, mean")
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of directions in common")
    name_blocks(axes, layers)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _means_of_relations(study: Study, axes: Any, layers: Sequence[Layer]) -> None:
    """For many pairs: a line for each kind of pair, or one for all."""
    kinds = {study.relation(*numbers) for numbers in study.numbers}
    for kind, color in zip(sorted(kinds, key=str), COLORS, strict=False):
        shares = []
        for layer in layers:
            pairs = [p for p in layer.pairs if study.relation(p.a, p.b) == kind and p.shared is not None]
            shares.append(sum((p.shared or 0) / p.k for p in pairs) / len(pairs) if pairs else float("nan"))
        axes.plot(range(len(layers)), shares, "o-", color=color, markersize=3, label=f"{kind or 'all pairs'}, mean")


def _by_block(study: Study) -> Figure:
    blocks, pairs = study.blocks(), _examples(study, len(COLORS))
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(pairs)
    for index, ((a, b), color) in enumerate(zip(pairs, COLORS, strict=False)):
        found = [study.pair(a, b, block) for block in blocks]
        places = [i - 0.4 + width * (index + 0.5) for i in range(len(blocks))]
        label = f"{study.names[a]} / {study.names[b]}"
        axes.bar(places, [f["overlap"] or 0 for f in found], width * 0.9, color=color, label=label)
        chances = [float("nan") if f["overlap_chance"] is None else f["overlap_chance"] for f in found]
        axes.scatter(places, chances, marker="_", color="#222222", zorder=3)
    axes.set_xticks(range(len(blocks)), blocks)
    axes.set_xlabel("block")
    axes.set_ylabel("share of directions in common")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _matrices(study: Study) -> Figure:
    n = len(study.adapters)
    kinds: dict[str, tuple[float, Any]] = {
        "overlap above chance": (1.0, lambda p: _less(p["overlap"], p["overlap_chance"])),
        "rank-biased overlap above chance": (1.0, lambda p: _less(p["rbo"], p["rbo_chance"])),
        "cosine of the changes": (1.0, lambda p: p["cosine"]),
        "sign conflict beyond cosine": (0.2, lambda p: p["excess_sign_conflict"]),
    }
    figure = Figure(figsize=(3 + 0.9 * n, 3 + 0.9 * n), layout="constrained")
    pairs = {numbers: study.pair(*numbers) for numbers in study.numbers}
    for axes, (title, (limit, value)) in zip(figure.subplots(2, 2).flat, kinds.items(), strict=True):
        matrix = [[float("nan")] * n for _ in range(n)]
        for (a, b), pair in pairs.items():
            matrix[a][b] = matrix[b][a] = float("nan") if value(pair) is None else value(pair)
        _matrix(axes, matrix, study.names, limit)
        axes.set_title(title, fontsize=8)
    return figure


def _less(value: float | None, chance: float | None) -> float | None:
    return None if value is None or chance is None else value - chance


def _matrix(axes: Any, matrix: Sequence[Sequence[float]], names: Sequence[str], limit: float) -> None:
    axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            if value == value:  # not NaN
                color = "white" if abs(value) > 0.6 * limit else "black"
                axes.text(column, row, f"{round(value, 2) + 0:.2f}", ha="center", va="center", fontsize=7, color=color)


def _short(path: str) -> str:
    """A layer's path on two lines, without what all of them have."""
    pieces = [piece for piece in path.split(".") if piece not in ("attentions", "transformer_blocks", "0")]
    middle = len(pieces) - 2
    return f"{'.'.join(pieces[:middle])}\n{'.'.join(pieces[middle:])}"
