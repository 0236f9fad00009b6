"""How well an adapter carries a pocket subject over: before and after, on the same noise, judged by the evaluators.

The subject is known exactly, so that the pictures it is compared with are other renders of it, in poses and places
that training has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..pocket import photographs
from ..pocket.evaluators import Evaluators
from ..pocket.world import CONTEXTS, Subject
from .fidelity import SubjectFidelity, prompt_fidelity, subject_fidelity

if TYPE_CHECKING:
    from ..adapters import AttachedAdapter
    from ..models import Base

STEPS, GUIDANCE = 20, 4.0
RENDERS = 12
"""Renders of the subject to compare with, and as many again that set the upper anchor."""


@dataclass(frozen=True)
class Personalization:
    """Figures of one adapter, and the pictures they were read from (one per prompt, the same noise in each list)."""

    subject: SubjectFidelity
    leak: float
    """Subject fidelity of the bare class word with the adapter on: 0 when "a cat" is still any cat."""
    prompt_before: float
    """Prompt fidelity of the base with the class word."""
    prompt_after: float
    """Prompt fidelity of the adapter with token and class word."""
    context_before: float
    context_after: float
    pictures_before: list[Image.Image]
    pictures_after: list[Image.Image]
    pictures_class: list[Image.Image]
    """The bare class word with the adapter on."""

    def to_dict(self) -> dict[str, Any]:
        """The figures, rounded, without the pictures."""
        return {
            "subject_fidelity": round(self.subject.share, 4),
            "likeness": {k: round(getattr(self.subject, k), 4) for k in ("generated", "base", "real")},
            "leak": round(self.leak, 4),
            "prompt_before": round(self.prompt_before, 4),
            "prompt_after": round(self.prompt_after, 4),
            "context_before": round(self.context_before, 4),
            "context_after": round(self.context_after, 4),
        }


def measure_personalization(
    base: Base,
    attached: AttachedAdapter,
    evaluators: Evaluators,
    subject: Subject,
    token: str = "sks",
    *,
    per_context: int = 1,
    seed: int = 0,
) -> Personalization:
    """Draw "a {token} {class}" and "a {class}" in every context, without and with the adapter, and read the pictures.

    The prompts go through all contexts in the order of CONTEXTS, `per_context` times.

    `attached` is left at the strength it had. Picture i of each list starts from the noise of seed + i.
    """
    places = list(CONTEXTS.values()) * per_context
    named, bare = ([f"a {name} {words}" for words in places] for name in (f"{token} {subject.cls}", subject.cls))
    strength = attached.strength
    try:
        attached.strength = 0.0
        before = _draw(base, bare, seed)
        attached.strength = 1.0
        after, of_class = _draw(base, named, seed), _draw(base, bare, seed)
    finally:
        attached.strength = strength
    references, real = (evaluators.identity(photographs(subject, RENDERS, seed=1_000 + seed + k)) for k in (0, 1))
    who = [evaluators.identity(pictures) for pictures in (before, after, of_class)]
    read_before, read_after = evaluators.read(before), evaluators.read(after)
    contexts = list(CONTEXTS) * per_context
    return Personalization(
        subject=subject_fidelity(who[1], who[0], real, references),
        leak=subject_fidelity(who[2], who[0], real, references).share,
        prompt_before=prompt_fidelity(read_before, bare, subject),
        prompt_after=prompt_fidelity(read_after, named, subject),
        context_before=_share(r.context == c for r, c in zip(read_before, contexts, strict=True)),
        context_after=_share(r.context == c for r, c in zip(read_after, contexts, strict=True)),
        pictures_before=before,
        pictures_after=after,
        pictures_class=of_class,
    )


def _draw(base: Base, prompts: Sequence[str], seed: int) -> list[Image.Image]:
    size, pictures = base.resolution, []
    batch = base.batch_for(size)
    for i in range(0, len(prompts), batch):
        part = prompts[i : i + batch]
        seeds = range(seed + i, seed + i + len(part))
        pictures += base.to_pictures(base.draw(part, list(seeds), size=size, steps=STEPS, guidance=GUIDANCE))
    return pictures


def _share(values: Any) -> float:
    return float(np.mean(list(values)))
