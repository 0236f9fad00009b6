"""What an adapter is worth: the figures of one evaluation on a subject of the pocket world that is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.quality_methods import PeftAttached
from benchmarks.quality_subjects import Individual, individual, pixels, prompts
from dreamtune.adapters import AttachedAdapter
from dreamtune.data.prior import prior_latents
from dreamtune.evaluation import Evaluation, Measurement, Sampling, default_prompts
from dreamtune.evaluation.pocket_judge import PocketJudge, shown
from dreamtune.models import Base
from dreamtune.models.conditioning import unet_inputs
from dreamtune.models.families import USUAL
from dreamtune.pocket.evaluators import Evaluators, Reading
from dreamtune.pocket.evaluators.evaluators import answers, to_array
from dreamtune.pocket.world import CONTEXTS
from dreamtune.training.losses import add_noise

FALSE_ACCEPTS = 0.01
DRAWING = USUAL["pocket"]
"""Of the pictures that are judged, and of the class pictures for training."""
SMALL, LEFT = 0.55, 0.43
"""A subject is small when neither side of its box is longer, and on the left when its middle is further left: shares of
the picture. Small subjects of the world measure 0.40 to 0.50, middling ones 0.60 to 0.72."""
_DRIFT_SAMPLES = 16


@dataclass(frozen=True)
class StrictJudge(PocketJudge):
    """Reads size and side too, where a prompt asks for them."""

    def prompt_scores(self, pictures: Any, prompts: Any) -> Tensor:
        """(n,) share of what each prompt asks for that the picture shows: place, class, size, side."""
        readings = self.evaluators.read(pictures)
        return torch.tensor([asked(reading, prompt) for reading, prompt in zip(readings, prompts, strict=True)])


def asked(reading: Reading, prompt: str) -> float:
    """:func:`shown`, which judges place and class, with size and side as a third answer."""
    x0, y0, x1, y1 = reading.main.box
    if " small " in prompt:
        extra = max(x1 - x0, y1 - y0) <= SMALL
    elif " left " in prompt:
        extra = (x0 + x1) / 2 <= LEFT
    else:
        return shown(reading, prompt)
    return (2 * shown(reading, prompt) + extra) / 3


@cache
def evaluators() -> Evaluators:
    """Loaded once in a process."""
    return Evaluators.load()


class Examiner:
    """Draws the base's pictures for a subject once, and then examines one adapter after another."""

    def __init__(self, base: Base, name: str, token: str, drawing_steps: int, whole: bool) -> None:
        """whole: twenty prompts, two pictures of each, and all figures; else ten pictures and the first four."""
        self.base, self.whole, self.who = base, whole, individual(name)
        self.pairs = prompts(self.who.cls, token) if whole else default_prompts(token, self.who.cls)
        self.sampling = Sampling(
            base.resolution, drawing_steps, DRAWING.guidance, seed=1_000, per_prompt=2 if whole else 1
        )
        self._exam: Evaluation | None = None

    def measure(self, attached: AttachedAdapter | PeftAttached) -> tuple[dict[str, float], list[Image.Image]]:
        """Figures of the adapter and the subject's pictures; `attached` is left as it was."""
        evaluation = self._exam_of(attached)
        measured = evaluation.measure()
        figures = {
            "fidelity": measured.subject.share,
            "prompt": measured.prompt,
            "prompt_base": measured.prompt_base,
            "leak": measured.class_word.share,
        }
        if self.whole:
            figures |= self._more(evaluation, measured) | {"drift": drift(self.base, attached, self.who.cls)}
        return {name: round(float(value), 5) for name, value in figures.items()}, measured.pictures_after

    def anchors(self, attached: AttachedAdapter | PeftAttached) -> dict[str, dict[str, float]]:
        """The same figures of the base's pictures of the class, and of real pictures of the subject as asked for."""
        evaluation = self._exam_of(attached)
        judge, real = evaluation.judge, self.who.real * self.sampling.per_prompt
        real_prompt = float(judge.prompt_scores(real, [pair.bare for pair in evaluation.prompts]).nanmean())
        base = {
            "fidelity": 0.0,
            "prompt": evaluation.prompt_fidelity,
            **self._of(evaluation.pictures),
            "diversity": 1.0,
        }
        best = {"fidelity": 1.0, "prompt": real_prompt, **self._of(real)}
        best["diversity"] = vendi(self.who.real) / vendi(evaluation.pictures[: len(self.who.real)])
        return {
            kind: {name: round(value, 5) for name, value in row.items()}
            for kind, row in (("base", base), ("real", best))
        }

    def _exam_of(self, attached: AttachedAdapter | PeftAttached) -> Evaluation:
        if self._exam is None:
            references, real = self.who.references, self.who.real
            judge = StrictJudge(evaluators())
            self._exam = Evaluation(self.base, attached, judge, references, self.pairs, self.sampling, real)  # pyright: ignore[reportArgumentType]
        self._exam.attached = attached  # pyright: ignore[reportAttributeAccessIssue]
        return self._exam

    def _more(self, evaluation: Evaluation, measured: Measurement) -> dict[str, float]:
        figures = self._of(measured.pictures_after)
        return figures | {"diversity": vendi(measured.pictures_after) / vendi(evaluation.pictures)}

    def _of(self, pictures: list[Image.Image]) -> dict[str, float]:
        return verification(self.who, pictures) | {"memorised": memorised(self.who, pictures, self.pairs)}


def verification(who: Individual, pictures: list[Image.Image]) -> dict[str, float]:
    """`verified`: share of pictures accepted as the subject where 1 % of look-alikes' pictures are.

    `told_apart`: share that is nearer to the subject's own references than to those of its look-alike.
    """
    identity = evaluators().identity
    own, twin = identity(who.references), identity(who.twin)
    threshold = torch.quantile((identity(who.strangers) @ own.T).mean(1), 1 - FALSE_ACCEPTS)
    rows = identity(pictures)
    likeness = (rows @ own.T).mean(1)
    return {
        "verified": float((likeness > threshold).float().mean()),
        "told_apart": float((likeness > (rows @ twin.T).mean(1)).float().mean()),
    }


def memorised(who: Individual, pictures: list[Image.Image], pairs: Any) -> float:
    """Share of pictures, in the training photographs' places, that are nearer to one of these than to unseen ones.

    Nearer in pixels; there are as many unseen photographs, of the same places. Half is what a model does that has not
    seen the photographs, all of them copies.
    """
    places = tuple(CONTEXTS[name] for name in who.places)
    asked_for = [pair.bare for pair in pairs] * (len(pictures) // len(pairs))
    there = [it for it, prompt in zip(pictures, asked_for, strict=True) if prompt.endswith(places)]
    distances = [
        np.linalg.norm(pixels(there)[:, None] - pixels(own)[None], axis=-1) for own in (who.photos, who.unseen)
    ]
    return float((distances[0].min(1) < distances[1].min(1)).mean())


def vendi(pictures: list[Image.Image]) -> float:
    """Vendi score (Friedman and Dieng, arXiv 2210.02410): how many different pictures these are worth, 1 to n.

    exp of the entropy of the eigenvalues of K/n, K the cosines of the image-text encoder's embeddings.
    """
    own = evaluators()
    told = answers(own.finder, own.reader, to_array(pictures), "cpu")
    with torch.no_grad():
        rows = F.normalize(own.image_text.pictures(told), dim=-1).double()
    values = torch.linalg.eigvalsh(rows @ rows.T / len(rows)).clamp_min(0)
    return float((-values * values.clamp_min(1e-300).log()).sum().exp())


@torch.no_grad()
def drift(base: Base, attached: AttachedAdapter | PeftAttached, cls: str) -> float:
    """Σ‖f_θ - f_0‖² / Σ‖f_0‖² of the UNet's predictions for "a {cls}" on noisy pictures of it, without the token."""
    clean = class_latents(base, cls, _DRIFT_SAMPLES).to(base.device)
    timesteps = torch.linspace(20, 980, _DRIFT_SAMPLES).long()
    a = base.noise_scheduler().alphas_cumprod[timesteps].double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    noisy = add_noise(clean, noise, a)
    inputs = unet_inputs(base.condition([f"a {cls}"]) * len(clean))

    def predict() -> Tensor:
        return base.unet(noisy, timesteps.to(noisy.device), **inputs, return_dict=False)[0].double()

    changed = predict()
    with attached.disabled():
        before = predict()
    return float((changed - before).square().sum() / before.square().sum())


def class_latents(base: Base, cls: str, count: int) -> Tensor:
    """Class pictures as the base draws them, (count, c, h, w); from the cache if they are there."""
    prompt = DRAWING.prompt("", cls)
    return prior_latents(base, prompt, count, base.resolution, steps=DRAWING.steps, guidance=DRAWING.guidance)
