"""Claims as differences that have to be above 0, and what the intervals of their measurements say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.claims_methods import method_claims
from benchmarks.claims_run import K, own_columns
from benchmarks.claims_table import DASH, RS, SPECTRAL, Values, row
from benchmarks.quality_subjects import look_alike_of
from dreamtune.analysis import predictions


def verdicts(
    subjects: Sequence[str],
    learned: Mapping[str, Mapping[str, Any]],
    together: Mapping[str, Mapping[str, Any]],
    seen: Mapping[str, Any],
    truth: Mapping[str, Mapping[str, list[int]]],
    quality: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """All claims. quality: the report of the quality benchmark; without it those that need it are not in the table."""
    claims = [
        *_directions(subjects, seen["full"]),
        *_early(subjects, learned, truth),
        *_dash(subjects, learned, seen["dash"]),
        *_spectral(subjects, learned, together, seen["spectral 0"]),
        row(
            "At one learning rate rsLoRA learns more than LoRA at rank 64 (alpha 8)",
            RS,
            "subject fidelity, rsLoRA less LoRA, both at rsLoRA's best learning rate",
            {"rsLoRA - LoRA": _difference(subjects, learned, "high rank rs", "high rank same")},
        ),
        row(
            "At its best learning rate rsLoRA learns more than LoRA at its own, at rank 64 (alpha 8)",
            RS,
            "subject fidelity, rsLoRA less LoRA, each at its own best learning rate",
            {"rsLoRA - LoRA": _difference(subjects, learned, "high rank rs", "high rank")},
        ),
    ]
    return claims + (method_claims(quality) if quality else [])


def _directions(subjects: Sequence[str], full: Any) -> list[dict[str, Any]]:
    """Where the directions of full fine-tuning lie, how few they are, and who shares them."""
    own = dict(zip(subjects, full["adapters"], strict=True))
    place = {name: it["place"] for name, it in own.items()}
    number = {name: i for i, name in enumerate(subjects)}

    def shared(one: str, other: str, figure: str) -> float:
        low, high = sorted((number[one], number[other]))
        return full[figure][f"{low}-{high}"] / K

    def with_strangers(name: str, figure: str) -> float:
        others = [it for it in subjects if it.split()[0] != name.split()[0]]
        return sum(shared(name, it, figure) for it in others) / len(others)

    with_others = {name: with_strangers(name, "shared") for name in subjects}
    by_chance = {name: with_strangers(name, "chance") for name in subjects}
    with_twin = {name: shared(name, look_alike_of(name), "shared") for name in subjects}
    return [
        row(
            "Task-specific directions lie at small, but not at the smallest singular values",
            DASH,
            "median place in the spectrum (0 largest, 1 smallest): above one half, and below that of the 8 smallest",
            {
                "place - 0.5": {name: value - 0.5 for name, value in place.items()},
                "8 smallest - place": {name: full["smallest_place"] - value for name, value in place.items()},
            },
        ),
        row(
            "Few directions change much",
            DASH,
            "the 8 strongest of 64 to 192 have more than half of the sum of all rates of change",
            {"share - 0.5": {name: it["share_of_first"] - 0.5 for name, it in own.items()}},
        ),
        row(
            "They differ between subjects",
            DASH,
            "subjects of different classes share less than half of their 8",
            {"0.5 - shared": {name: 0.5 - value for name, value in with_others.items()}},
        ),
        row(
            "Subjects of different classes share more of them than unrelated changes would",
            "our reading of the same claim",
            "share in common, less that of random changes with the same singular values on the same weights",
            {"shared - chance": {name: value - by_chance[name] for name, value in with_others.items()}},
        ),
        row(
            "Closer subjects share more of them",
            DASH,
            "share in common with the look-alike, less that with subjects of other classes",
            {"look-alike - others": {name: with_twin[name] - value for name, value in with_others.items()}},
        ),
    ]


def _early(
    subjects: Sequence[str], learned: Mapping[str, Mapping[str, Any]], truth: Mapping[str, Mapping[str, list[int]]]
) -> list[dict[str, Any]]:
    """Whether ΔW of a young LoRA knows the directions: of full fine-tuning, and of its own end."""
    found: dict[str, dict[str, float]] = {name: {} for name in ("recall", "accuracy", "own recall", "own accuracy")}
    for subject in subjects:
        steps = {int(step): _tensors(layers) for step, layers in learned[subject]["lora"]["seen"].items()}
        early = sorted(steps)[1]  # a fifth of the training: when LoRA-Dash launches
        ends = {"": _tensors(truth[subject]), "own ": steps[max(steps)]}
        for name, end in ends.items():
            (told,) = predictions({early: steps[early]}, end)
            found[f"{name}recall"][subject] = (told.recall or 0.0) - 0.75
            found[f"{name}accuracy"][subject] = (told.accuracy or 0.0) - 0.75
    return [
        row(
            "LoRA's ΔW shows the task-specific directions early",
            DASH,
            "after a fifth of the steps, against full fine-tuning: recall and accuracy above 0.75",
            {f"{name} - 0.75": found[name] for name in ("recall", "accuracy")},
        ),
        row(
            "LoRA's ΔW shows early the directions that it will end with",
            "our reading of the same claim",
            "after a fifth of the steps, against the end of the same training: recall and accuracy above 0.75",
            {f"{name} - 0.75": found[f"own {name}"] for name in ("recall", "accuracy")},
        ),
    ]


def _dash(subjects: Sequence[str], learned: Mapping[str, Mapping[str, Any]], seen: Any) -> list[dict[str, Any]]:
    amplified = {name: it["amplification"] for name, it in zip(subjects, seen["adapters"], strict=True)}
    choices = {"own - bottom": ("dash", "dash bottom"), "bottom - random": ("dash bottom", "dash random")}
    choices["random - top"] = ("dash random", "dash top")
    return [
        row(
            "A pre-launch phase longer than needed hurts",
            DASH,
            "subject fidelity by the step of the launch",
            {"launch at 20 % - at 60 %": _difference(subjects, learned, "dash", "dash late")},
        ),
        row(
            "Too many directions hurt",
            DASH,
            "subject fidelity with 8 directions, less that with 32",
            {"8 - 32": _difference(subjects, learned, "dash", "dash 32")},
        ),
        row(
            "Task-specific directions are better than those of the smallest singular values, these than random ones, "
            "and those than the top ones",
            DASH,
            "subject fidelity, one choice less the next",
            {name: _difference(subjects, learned, *two) for name, two in choices.items()},
        ),
        row(
            "The directions are amplified mostly by the dash term",
            DASH,
            "amplification by the dash term alone, less that by BA alone",
            {"dash - AB": {name: it["dash"] - it["AB"] for name, it in amplified.items()}},
        ),
    ]


def _spectral(
    subjects: Sequence[str], learned: Mapping[str, Mapping[str, Any]], together: Mapping[str, Any], seen: Any
) -> list[dict[str, Any]]:
    ranks = {name: it["ranks"] for name, it in zip(subjects, seen["adapters"], strict=True)}

    def loss(subject: str, fusion: str, single: str) -> float:
        return learned[subject][single]["fidelity"] - together[subject][fusion]["fidelity"]

    apart = {name: loss(name, "other columns", own_columns(name)) for name in subjects}
    return [
        row(
            "The additive Spectral Adapter of rank r can change a weight by a matrix of rank 2r",
            SPECTRAL,
            "numerical rank of trained changes in all layers, less the 5 that LoRA of as many numbers has",
            {"rank - 5": {name: float(min(it)) - 5 for name, it in ranks.items()}},
        ),
        row(
            "Disjoint columns prevent loss of identity in fusion",
            SPECTRAL,
            "two look-alikes fused: loss of subject fidelity in the same columns, less that in disjoint ones",
            {"same - disjoint": {name: loss(name, "same columns", "spectral 0") - apart[name] for name in subjects}},
        ),
        row(
            "In disjoint columns a subject loses less than a tenth by fusion",
            "our reading of the same claim",
            "subject fidelity fused, less nine tenths of that alone",
            {
                "fused - 0.9 alone": {
                    name: together[name]["other columns"]["fidelity"]
                    - 0.9 * learned[name][own_columns(name)]["fidelity"]
                    for name in subjects
                }
            },
        ),
    ]


def _difference(subjects: Sequence[str], learned: Mapping[str, Mapping[str, Any]], one: str, other: str) -> Values:
    return {name: learned[name][one]["fidelity"] - learned[name][other]["fidelity"] for name in subjects}


def _tensors(layers: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: torch.tensor(indices, dtype=torch.int64) for name, indices in layers.items()}
