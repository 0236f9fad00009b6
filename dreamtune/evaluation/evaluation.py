"""Evaluating an adapter: subject and class are generated from fixed noise without and with it, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from dreamtune.adapters import AttachedAdapter, AttachedParts
from dreamtune.errors import GenerationError
from dreamtune.models import Base
from dreamtune.models.device import enough_memory

from .fidelity import SubjectFidelity, likeness, movement, subject_fidelity
from .judges import Judge
from .prompts import PromptPair


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    size: int
    """Side in pixels."""
    steps: int
    guidance: float
    seed: int = 0
    """Picture i of each list starts from the noise of seed + i."""
    per_prompt: int = 1
    """Pictures of each prompt: the prompts are gone through so many times."""


@dataclass(frozen=True)
class PromptFigures:
    """The figures of one prompt, means over its pictures."""

    prompt: str
    likeness_base: float
    likeness: float
    """Mean cosine of the adapter's pictures with the references."""
    score_base: float
    score: float
    """How well the pictures fit the prompt; NaN where the judge cannot tell."""
    drift: float


@dataclass(frozen=True)
class Measurement:
    """What an adapter does, in figures and pictures; picture i of each list is of the same prompt and noise."""

    subject: SubjectFidelity
    """The subject's name with the adapter on; :attr:`SubjectFidelity.share` is the subject fidelity."""
    class_word: SubjectFidelity
    """The bare class word with the adapter on; its share is the leak, 0 when "a cat" is still any cat."""
    prompt_base: float
    """Prompt fidelity of the base, asked for the class: mean score of its pictures; NaN if none can be told."""
    prompt: float
    """Prompt fidelity with the adapter, asked for the subject: each picture is read against the same words."""
    drift: float
    """Prior drift: mean 1 - cosine of identity embeddings of the class's pictures without and with the adapter."""
    by_prompt: tuple[PromptFigures, ...]
    pictures_before: list[Image.Image]
    """The class by the base."""
    pictures_after: list[Image.Image]
    """The subject by the adapter."""
    pictures_class: list[Image.Image]
    """The class with the adapter on."""


class Evaluation:
    """The same pictures for every adapter, or every state of one: what the base draws for them is drawn once."""

    def __init__(
        self,
        base: Base,
        attached: AttachedAdapter | AttachedParts,
        judge: Judge,
        references: Sequence[Image.Image],
        prompts: Sequence[PromptPair],
        sampling: Sampling,
        real: Sequence[Image.Image] | None = None,
    ) -> None:
        """Draw the base's pictures, with `attached` switched off, and have them judged.

        references: real pictures of the subject. real: others, which set the upper anchor; without them each
        reference is compared with the others. Raises GenerationError when a picture comes out as NaN or memory runs
        out.
        """
        self.base, self.attached, self.judge, self.sampling = base, attached, judge, sampling
        self.prompts = [*prompts] * sampling.per_prompt
        self._references = judge.identity(references)
        self._real = None if real is None else judge.identity(real)
        with self._strength(0.0):
            self.pictures = self._draw([pair.bare for pair in self.prompts])
        self._identity = judge.identity(self.pictures)
        self._scores = self._score(self.pictures)

    @property
    def prompt_fidelity(self) -> float:
        """Of the base; see :attr:`Measurement.prompt_base`."""
        return float(self._scores.nanmean())

    def measure(self, strength: float = 1.0) -> Measurement:
        """Draw subject and class with the adapters at `strength` and judge; they are left as they were.

        Raises GenerationError when a picture comes out as NaN or memory runs out.
        """
        with self._strength(strength):
            after = self._draw([pair.named for pair in self.prompts])
            of_class = self._draw([pair.bare for pair in self.prompts])
        who, who_class = self.judge.identity(after), self.judge.identity(of_class)
        scores, moved = self._score(after), movement(self._identity, who_class)
        return Measurement(
            subject=subject_fidelity(who, self._identity, self._references, self._real),
            class_word=subject_fidelity(who_class, self._identity, self._references, self._real),
            prompt_base=self.prompt_fidelity,
            prompt=float(scores.nanmean()),
            drift=float(moved.mean()),
            by_prompt=tuple(self._by_prompt(who, scores, moved)),
            pictures_before=self.pictures,
            pictures_after=after,
            pictures_class=of_class,
        )

    def _by_prompt(self, who: Tensor, scores: Tensor, moved: Tensor) -> Iterator[PromptFigures]:
        n = len(self.prompts) // self.sampling.per_prompt
        for i in range(n):
            part = slice(i, None, n)
            yield PromptFigures(
                prompt=self.prompts[i].named,
                likeness_base=likeness(self._identity[part], self._references),
                likeness=likeness(who[part], self._references),
                score_base=float(self._scores[part].nanmean()),
                score=float(scores[part].nanmean()),
                drift=float(moved[part].mean()),
            )

    def _score(self, pictures: Sequence[Image.Image]) -> Tensor:
        return self.judge.prompt_scores(pictures, [pair.bare for pair in self.prompts])

    def _draw(self, prompts: Sequence[str]) -> list[Image.Image]:
        s, pictures = self.sampling, list[Image.Image]()
        too_little = GenerationError(f"out of device memory at {s.size} pixels: lower size")
        batch = self.base.batch_for(s.size)
        for i in range(0, len(prompts), batch):
            part = prompts[i : i + batch]
            seeds = range(s.seed + i, s.seed + i + len(part))
            with enough_memory(too_little):
                latents = self.base.draw(part, seeds, size=s.size, steps=s.steps, guidance=s.guidance)
                if not latents.isfinite().all():
                    raise GenerationError(
                        f"an image of {part[0]!r} came out as NaN: lower the strength, or check the base"
                    )
                pictures += self.base.to_pictures(latents)
        return pictures

    @contextmanager
    def _strength(self, value: float) -> Iterator[None]:
        attached = self.attached
        strength, training = attached.strength, attached.training
        try:
            attached.strength = value
            attached.eval()
            yield
        finally:
            attached.strength = strength
            attached.train(training)
