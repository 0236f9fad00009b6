"""Measures what adapters do to the base's predictions, alone and in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from dreamtune.analysis.effects import agreement, kept, prediction
from dreamtune.models import Base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.words import same as same_word

PICTURES = 4
"""Images of the base per measurement."""


@dataclass(frozen=True)
class Together:
    """What two adapters do to the same images."""

    agreement: float
    """Cosine of what both do to an image of their class, see analysis.effects. NaN if undefined."""
    heard: tuple[float, float]
    """Effect of each, alone, in an image of two subjects: as a multiple of its effect in an image of one."""
    kept: tuple[float, float]
    """Share of that effect that remains when both act; NaN if undefined, e.g. for two adapters with embeddings for the
    same token, which no prompt can tell apart."""

    @property
    def left(self) -> tuple[float, float]:
        """Remaining effect of each in an image of both, as a share of its effect in an image of its own."""
        return self.heard[0] * self.kept[0], self.heard[1] * self.kept[1]


class Asking:
    """What adapters do to the base's predictions, each measured once."""

    def __init__(self, uses: Sequence[AdapterRef], base: Base, steps: int, seed: int = 0, any_base: bool = False):
        """steps: denoising steps of the base's images that predictions are measured on."""
        known = [number for number, use in enumerate(uses) if len(use.file.subjects) == 1 and all(use.file.subjects[0])]
        self.words = {number: uses[number].file.subjects[0] for number in known}
        """Token and class of each adapter that records both."""
        self._uses, self._base, self._steps, self._seed, self._any_base = uses, base, steps, seed, any_base
        self._drawn: dict[str, Tensor] = {}
        self._own: dict[tuple[int, str], Tensor] = {}

    def own(self, number: int, cls: str) -> Tensor:
        """What an adapter does to images of a class, prompted with its own token."""
        if (number, cls) not in self._own:
            usual, token = USUAL[self._base.family], self.words[number][0]
            self._own[number, cls] = self.done_by([number], usual.prompt(token, cls), usual.prompt("", cls))
        return self._own[number, cls]

    def agreement(self, first: int, second: int) -> float:
        """Mean cosine of what two do to images of their classes; NaN where one does nothing."""
        kinds = dict.fromkeys((self.words[first][1], self.words[second][1]))
        return sum(agreement(self.own(first, kind), self.own(second, kind)) for kind in kinds) / len(kinds)

    def done_by(self, acting: Sequence[int], prompt: str, plain: str) -> Tensor:
        """The change of the prediction by those adapters, with `prompt`, on images of `plain`."""
        return self._asked(prompt, plain, acting) - self._asked(prompt, plain, [])

    def _asked(self, prompt: str, plain: str, acting: Sequence[int]) -> Tensor:
        latents = self._pictures(plain)
        with ExitStack() as stack:
            for number in acting:
                stack.enter_context(self._uses[number].on(self._base, self._any_base))
            return prediction(self._base, prompt, latents, self._seed)

    def _pictures(self, prompt: str) -> Tensor:
        if prompt not in self._drawn:
            base, guidance = self._base, USUAL[self._base.family].guidance
            seeds = range(self._seed, self._seed + PICTURES)
            self._drawn[prompt] = base.draw(
                [prompt] * PICTURES, seeds, size=base.resolution, steps=self._steps, guidance=guidance
            )
        return self._drawn[prompt]


def effects(
    uses: Sequence[AdapterRef], base: Base, on_progress: OnProgress, steps: int, seed: int = 0, any_base: bool = False
) -> dict[tuple[int, int], Together]:
    """Every pair of adapters that record token and class: numbers of both -> what they do.

    The base generates the images in `steps`; in images of two subjects, the first adapter's is on the left. Raises
    IncompatibleModelError.
    """
    asking = Asking(uses, base, steps, seed, any_base)
    pairs, found = list(combinations(asking.words, 2)), {}
    for done, (a, b) in enumerate(pairs, 1):
        (one, cls), (other, other_cls) = asking.words[a], asking.words[b]
        agreement = asking.agreement(a, b)
        plain = _two(cls, other_cls)
        first = asking.done_by([a], _two(f"{one} {cls}", other_cls), plain)
        second = asking.done_by([b], _two(cls, f"{other} {other_cls}"), plain)
        share = (math.nan, math.nan)
        if not (same_word(one, other) and uses[a].file.embeddings and uses[b].file.embeddings):
            both = asking.done_by([a, b], _two(f"{one} {cls}", f"{other} {other_cls}"), plain)
            share = kept(both, first, second)
        found[a, b] = Together(
            agreement=agreement,
            heard=(_ratio(first, asking.own(a, cls)), _ratio(second, asking.own(b, other_cls))),
            kept=share,
        )
        on_progress(Progress("effects", done, len(pairs)))
    return found


def _two(left: str, right: str) -> str:
    return f"a {left} on the left and a {right} on the right"


def _ratio(value: Tensor, whole: Tensor) -> float:
    size = float(whole.norm())
    return float(value.norm()) / size if size > 0 else math.nan
