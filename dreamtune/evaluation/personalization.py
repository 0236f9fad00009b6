"""How well an adapter carries a pocket subject over: before and after, on the same noise, judged by the evaluators.

The subject is known exactly, so that the pictures it is compared with are other renders of it, in poses and places
that training has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dreamtune.adapters import AttachedAdapter
from dreamtune.models import Base
from dreamtune.models.families import USUAL
from dreamtune.pocket import photographs
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import CONTEXTS, Subject

from .evaluation import Evaluation, Measurement, Sampling
from .fidelity import SubjectFidelity
from .pocket_judge import PocketJudge
from .prompts import default_prompts

RENDERS = 12
"""Renders of the subject to compare with, and as many again that set the upper anchor."""


@dataclass(frozen=True)
class Personalization:
    """Figures of one adapter, and the pictures they were read from."""

    figures: Measurement
    context_before: float
    """Share of the base's pictures with the place that was asked for."""
    context_after: float
    """The same of the adapter's."""

    @property
    def subject(self) -> SubjectFidelity:
        """Of the subject's name with the adapter on."""
        return self.figures.subject

    @property
    def leak(self) -> float:
        """Subject fidelity of the bare class word with the adapter on: 0 when "a cat" is still any cat."""
        return self.figures.class_word.share

    def to_dict(self) -> dict[str, Any]:
        """The figures, rounded, without the pictures."""
        return {
            "subject_fidelity": round(self.subject.share, 4),
            "likeness": {k: round(getattr(self.subject, k), 4) for k in ("generated", "base", "real")},
            "leak": round(self.leak, 4),
            "drift": round(self.figures.drift, 4),
            "prompt_before": round(self.figures.prompt_base, 4),
            "prompt_after": round(self.figures.prompt, 4),
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

    The prompts go through all contexts, `per_context` pictures of each. `attached` is left at the strength it had.
    Picture i of each list starts from the noise of seed + i.
    """
    references, real = (photographs(subject, RENDERS, seed=1_000 + seed + k) for k in (0, 1))
    usual = USUAL["pocket"]
    sampling = Sampling(base.resolution, usual.steps, usual.guidance, seed, per_context)
    pairs = default_prompts(token, subject.cls)
    evaluation = Evaluation(base, attached, PocketJudge(evaluators), references, pairs, sampling, real)
    measured = evaluation.measure()
    before, after = (
        _in_context(evaluators, pictures, [pair.bare for pair in evaluation.prompts])
        for pictures in (measured.pictures_before, measured.pictures_after)
    )
    return Personalization(measured, before, after)


def _in_context(evaluators: Evaluators, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> float:
    """Share of pictures that show the place at the end of their prompt."""
    readings = evaluators.read(pictures)
    return sum(prompt.endswith(CONTEXTS[r.context]) for r, prompt in zip(readings, prompts, strict=True)) / len(prompts)
