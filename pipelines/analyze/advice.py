"""What the results of an analysis suggest, one line each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dreamtune.analysis import Advice
from dreamtune.pipelines.analyze.study import RELATIONS, Study
from dreamtune.pipelines.analyze.together import footnote, sentences

CLEAR = 3.0
"""Standard deviations above chance from which an overlap counts as more than chance."""
_ROUTES_SHOWN = 3


def advice(study: Study) -> list[str]:
    """All lines: the reliable ones first, then those on all adapters together, on each adapter and on each pair."""
    return [*leading(study), *overall(study), *on_adapters(study), *on_pairs(study)]


def leading(study: Study) -> list[str]:
    """The reliable lines: which adapters are of one subject, and what each will lose in an image of two."""
    found = [line for pair, it in study.together.items() for line in sentences(study.names, pair, it)]
    return [*found, footnote(study.base)] if found else []


def overall(study: Study) -> list[str]:
    """Lines on all adapters together."""
    order, free = ordering(study), [str(offset) for offset, _ in study.free_columns()[:3]]
    alike = sum(study.same_seed(*numbers) for numbers in study.numbers)
    lines = [order] if order else []
    if alike:
        lines.append(
            f"{_count(alike, 'pair')} of {len(study.numbers)} used the same seed: the adapters started from the same "
            "random values and so share more, whatever their subjects. Use different seeds for adapters that you want "
            "to combine."
        )
    if free:
        lines.append(
            f"A Spectral Adapter to combine with {'these' if len(study.adapters) > 1 else 'this one'} disturbs least "
            f"with column_offset {', '.join(free)} (best first)."
        )
    return lines


def on_adapters(study: Study) -> list[str]:
    """Lines on the health of each."""
    return [line for number in range(len(study.adapters)) for line in _alone(study, number)]


def on_pairs(study: Study) -> list[str]:
    """What each pair shares, and how the two will disturb each other."""
    forecasts = {(it.a, it.b): it for it in study.interference.advice()} if study.interference else {}
    lines = []
    for a, b in study.numbers:
        lines.append(_overlap(study, a, b))
        if (a, b) in forecasts:
            lines.append(_forecast(study, forecasts[a, b]))
    return lines


def ordering(study: Study) -> str | None:
    """Whether seeds of one subject share most, then subjects of one class, then others; None without two kinds."""
    found = study.relations()
    names = [name for name in RELATIONS[:3] if name in found]
    if len(names) < 2:
        return None
    told = "; ".join(
        f"{name} {_share(found[name]['overlap'])} ({_count(found[name]['pairs'], 'pair')})" for name in names
    )
    values = [found[name]["above_chance"] for name in names]
    if None in values:
        return f"Overlap by kind of pair: {told}."
    if not all(first > second for first, second in pairwise(values)):
        return f"The order same subject > same class > different class does not hold here: {told}."
    apart = all(
        found[one]["above_chance_low"] is not None
        and found[other]["above_chance_high"] is not None
        and found[one]["above_chance_low"] > found[other]["above_chance_high"]
        for one, other in pairwise(names)
    )
    certain = "and the intervals do not overlap" if apart else "but the intervals overlap"
    return f"Overlap decreases in the order {' > '.join(names)}, {certain}: {told}."


def _alone(study: Study, number: int) -> list[str]:
    name, health, info = study.names[number], study.health(number), study.adapters[number]
    lines = []
    if health["near_zero_layers"] == health["layers"]:
        return [f"{name} changes nothing: train it longer, or with a higher learning rate."]
    if health["near_zero_layers"]:
        lines.append(f"{name} changes almost nothing in {health['near_zero_layers']} of {health['layers']} layers.")
    if health["trim_to"] < health["rank"] and health["trimmed_parameters"] < info.parameters:
        base = f" --base {study.base}" if info.needs_base else ""
        lines.append(
            f"{name} has rank {health['rank']} but needs at most {health['trim_to']} for 95% of its change (median "
            f"{health['trim_to_median']}). Trim it to {health['trimmed_parameters'] / info.parameters:.0%} of its size "
            f"with: dreamtune trim {info.file} --energy 0.95{base} --out smaller.safetensors"
        )
    if health["intruder_dimensions"]:
        lines.append(
            f"{name} has {health['intruder_dimensions']} intruder dimensions: strong directions that the base does not "
            "have. Such adapters tend to forget more; a lower alpha or learning rate avoids them."
        )
    return lines


def _overlap(study: Study, a: int, b: int) -> str:
    names, pair = f"{study.names[a]} and {study.names[b]}", study.pair(a, b)
    if not pair["layers"]:
        return f"{names} have no layer in common."
    if pair["overlap"] is None:
        return f"{names}: overlap is undefined because one of them changes nothing where the other does."
    told = (
        f"{names} share {_share(pair['overlap'])} of their {study.top_k} directions per layer, "
        f"{'no ' if (pair['z'] or 0) < CLEAR else ''}more than unrelated adapters do ({_share(pair['overlap_chance'])})"
    )
    if study.same_seed(a, b):
        return f"{told}; both used seed {study.adapters[a].seed}, which alone makes them share more."
    return f"{told}. This alone does not show whether they can be used together."


def _forecast(study: Study, forecast: Advice) -> str:
    a, b = study.names[forecast.a], study.names[forecast.b]
    if forecast.strengths is None or study.interference is None:
        return f"{a} and {b}: interference is undefined because one of them changes nothing."
    total = study.interference.total()
    lines = [
        f"Adding {b} to {a} changes the layers' outputs by {_times(total[forecast.a, forecast.b])} of {a}'s own "
        f"effect; the other way around, by {_times(total[forecast.b, forecast.a])}."
    ]
    if forecast.dominant is not None:
        lines.append(f"{study.names[forecast.dominant]} would drown out the other.")
    lines.append(f"Balanced strengths: {a} {forecast.strengths[0]:.2f}, {b} {forecast.strengths[1]:.2f}.")
    if forecast.route:
        more = ", ..." if len(forecast.route) > _ROUTES_SHOWN else ""
        shown = ", ".join(forecast.route[:_ROUTES_SHOWN]) + more
        verb = "is" if len(forecast.route) == 1 else "are"
        lines.append(f"{_count(len(forecast.route), 'layer')} {verb} better routed by region than merged: {shown}.")
    return " ".join(lines)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _times(value: Any) -> str:
    """Crosstalk as a ratio of norms, not of squared norms."""
    return f"{float(value) ** 0.5:.0%}"
