"""How good the evaluators are: measured on held-out renders after a round trip through the VAE, boxes as found."""

# diffusers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false
from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluators import Evaluators
from ..evaluators.geometry import overlap
from ..photographs import PHOTO_SIZES
from ..world import CLASSES, COLORS, CONTEXTS, PATTERNS, SIZES, Placement, Scene, Subject, render
from .data import HELD_OUT, NONE, RenderSet, identity
from .maker import Maker
from .vae import round_trip

_COLORS, _CONTEXTS = list(COLORS), list(CONTEXTS)
_HALF = 0.5
"""A found box is that of a subject when they overlap at least this much (intersection over union)."""
_VISIBLE, _STEP = 0.1, 48
"""Two subjects can be told apart by eye when this share of their pixels differs by more than so many of 255."""


def judge(maker: Maker) -> dict[str, Any]:
    """All measurements of the evaluators on held-out renders, each picture after a round trip through the VAE."""
    evaluators, vae, config = maker.evaluators(), maker.vae(), maker.config
    world = maker.world(held_out=True)
    images = round_trip(vae, world, 1)
    portraits, any_size = (
        evaluators.identity(round_trip(vae, maker.individuals_held_out(sizes), 1)) for sizes in (PHOTO_SIZES, SIZES)
    )
    first = range(HELD_OUT, HELD_OUT + config.individuals_held_out, 2)
    apart = torch.tensor([visibly_apart(identity(i), identity(i + 1)) for i in first])
    return {
        "pictures": len(world),
        "reading": judge_reading(evaluators, world, images),
        "identity": judge_identity(portraits, config.views, apart),
        "identity_any_size": judge_identity(any_size, config.views, apart),
        "image_text": judge_image_text(evaluators, world, images, config.seed),
    }


def judge_reading(evaluators: Evaluators, data: RenderSet, images: np.ndarray) -> dict[str, float]:
    """Accuracies of Evaluators.read; attributes over all subjects whose place was found, `found` is their share.

    `color` is right when the true colour is among Found.colors.
    """
    names = ("cls", "color", "pattern", "hat", "context", "count", "found")
    right: dict[str, list[float]] = {name: [] for name in names}
    overlaps: list[float] = []
    for i, reading in enumerate(evaluators.read(images)):
        present = [j for j in range(2) if data.attributes[i, j, 0] >= 0]
        right["context"].append(_CONTEXTS[data.contexts[i]] == reading.context)
        right["count"].append(len(present) == len(reading.subjects))
        for j in present:
            truth = torch.from_numpy(data.boxes[i, j])
            shares = [float(overlap(truth, torch.tensor(s.box))) for s in reading.subjects]
            best = int(np.argmax(shares))
            right["found"].append(shares[best] >= _HALF)
            if shares[best] < _HALF:
                continue
            overlaps.append(shares[best])
            subject, labels = reading.subjects[best], data.attributes[i, j]
            right["color"].append(_COLORS[labels[1]] in subject.colors)
            goal = {
                "cls": CLASSES[labels[0]],
                "pattern": PATTERNS[labels[2]],
                "hat": _COLORS[labels[4]] if labels[4] != NONE else None,
            }
            for name, value in goal.items():
                right[name].append(getattr(subject, name) == value)
    return {name: _mean(values) for name, values in (right | {"box_iou": overlaps}).items()}


def _mean(values: Sequence[float]) -> float:
    """The mean; 0 without any value, since a reader that finds nothing reads nothing rightly."""
    return float(np.mean(values)) if values else 0.0


def visibly_apart(first: Subject, second: Subject, size: int = 48) -> bool:
    """Whether the two, drawn alike in every other way, differ in a tenth of their pixels.

    Look-alikes differ in what chance gives them. Now and then that is nothing: two plain cars with the same kind of
    roof and nearly the same wheels are one car to every eye.
    """
    place = (Placement(0.5, 0.5, 0.4, size="big"),)
    one, two = (render(Scene("room", 0, (subject,), place), size) for subject in (first, second))
    inside = one.masks[0] | two.masks[0]
    steps = np.abs(one.image.astype(np.int16) - two.image).max(-1)
    return bool((steps[inside] > _STEP).mean() >= _VISIBLE)


def judge_identity(embeddings: Tensor, views: int, apart: Tensor) -> dict[str, float]:
    """Share of same-individual pairs accepted at the threshold that accepts 1 % of strangers, or of look-alikes.

    `right_of_look_alikes`: share of right answers to "the same one, or a look-alike?" at the threshold that is best.
    Figures of look-alikes are of those that are visibly apart, but for the one that counts all that chance has made.

    embeddings: (individuals * views, width) unit rows; individuals 2k and 2k + 1 are look-alikes. apart: (individuals
    / 2,) bool, whether they can be told apart.
    """
    n = len(embeddings) // views
    cosines = embeddings @ embeddings.T
    who = torch.arange(n).repeat_interleave(views)
    upper = torch.ones_like(cosines, dtype=torch.bool).triu(1)
    same = who[:, None] == who[None]
    alike = (who[:, None] // 2 == who[None] // 2) & ~same
    visible = alike & apart.repeat_interleave(2 * views)
    mates, twins, strangers, all_twins = (cosines[m & upper] for m in (same, visible, ~same & ~alike, alike))
    threshold, strict, strictest = (float(torch.quantile(_sample(v), 0.99)) for v in (strangers, twins, all_twins))
    return {
        "accepted_at_1pct_strangers": float((mates > threshold).float().mean()),
        "accepted_at_1pct_look_alikes": float((mates > strict).float().mean()),
        "accepted_at_1pct_of_all_look_alikes": float((mates > strictest).float().mean()),
        "right_of_look_alikes": _balanced(mates, twins),
        "threshold_strangers": threshold,
        "threshold_look_alikes": strict,
        "mean_same": float(mates.mean()),
        "mean_look_alikes": float(twins.mean()),
        "mean_strangers": float(strangers.mean()),
        "individuals": n,
        "pairs_not_apart": int((~apart).sum()),
    }


def _balanced(mates: Tensor, others: Tensor) -> float:
    """The highest mean of accepted `mates` and refused `others` over all thresholds."""
    thresholds = torch.linspace(-1, 1, 401)
    accepted = (mates[:, None] > thresholds).float().mean(0)
    refused = (others[:, None] <= thresholds).float().mean(0)
    return float(((accepted + refused) / 2).max())


def _sample(values: Tensor, most: int = 1_000_000) -> Tensor:
    """At most `most` of the values, evenly spread: torch.quantile takes no more than 16 million."""
    return values[:: max(1, len(values) // most)]


def judge_image_text(evaluators: Evaluators, data: RenderSet, images: np.ndarray, seed: int) -> dict[str, float]:
    """How often a picture is nearer to its caption than to the same caption with one word of a kind changed."""
    rng = Random(f"altered {seed}")
    choices = {"class": list(CLASSES), "color": _COLORS, "context": list(CONTEXTS.values()), "side": ["left", "right"]}
    result: dict[str, float] = {}
    for kind, words in choices.items():
        rows, true, false = [], [], []
        for i, texts in enumerate(data.captions):
            altered = alter(rng, texts[0], words)
            if altered is not None:
                rows.append(i)
                true.append(texts[0])
                false.append(altered)
        won = evaluators.likeness(images[rows], true) > evaluators.likeness(images[rows], false)
        result[kind] = float(won.float().mean())
    return result


def alter(rng: Random, text: str, words: list[str]) -> str | None:
    """`text` with one of its `words` replaced by another that it does not hold; None if it holds none of them."""
    held = [w for w in words if re.search(rf"\b{w}\b", text)]
    if not held:
        return None
    old = rng.choice(held)
    # With left and right both there, exchanging them is the only change of meaning.
    new = rng.choice([w for w in words if w not in held] or [w for w in words if w != old])
    swapped = {old: new, new: old}
    return re.sub(rf"\b({old}|{new})\b", lambda m: swapped[m[1]], text)
