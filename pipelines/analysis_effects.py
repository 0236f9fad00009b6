"""Asking the base what adapters do to its predictions, alone and in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from dreamtune.models.families import USUAL
from dreamtune.pipelines.adapter_use import AdapterUse
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.words import same as same_word

if TYPE_CHECKING:
    from torch import Tensor

    from dreamtune.models import Base

PICTURES = 4
"""Pictures of the base for each question."""


@dataclass(frozen=True)
class Together:
    """What two adapters do to the same pictures."""

    agreement: float
    """Cosine of what both do to a picture of their class: see analysis.effects. NaN where it is not defined."""
    heard: tuple[float, float]
    """How much each does, alone, in a picture of two: as a multiple of what it does in a picture of one."""
    kept: tuple[float, float]
    """Share of that which is left of each when both act; NaN where that is not defined, as for two that have vectors of
    their own for one word, of which no prompt can mean both."""

    @property
    def left(self) -> tuple[float, float]:
        """What is left of each in a picture of both, as a share of what it does in a picture of itself."""
        return self.heard[0] * self.kept[0], self.heard[1] * self.kept[1]


def effects(
    uses: Sequence[AdapterUse], base: Base, tell: OnProgress, steps: int, seed: int = 0, any_base: bool = False
) -> dict[tuple[int, int], Together]:
    """Every pair of adapters that tell their word and class: numbers of both -> what they do.

    The pictures are drawn by the base in `steps`; one of two has the first adapter's subject on the left. Raises
    IncompatibleModelError.
    """
    from dreamtune.analysis.effects import agreement, kept, prediction

    known = [number for number, use in enumerate(uses) if len(use.file.subjects) == 1 and all(use.file.subjects[0])]
    words = {number: uses[number].file.subjects[0] for number in known}
    pairs, usual = list(combinations(known, 2)), USUAL[base.family]
    drawn: dict[str, Tensor] = {}

    def pictures(prompt: str) -> Tensor:
        if prompt not in drawn:
            seeds = range(seed, seed + PICTURES)
            drawn[prompt] = base.draw(
                [prompt] * PICTURES, seeds, size=base.resolution, steps=steps, guidance=usual.guidance
            )
        return drawn[prompt]

    def asked(prompt: str, plain: str, acting: Sequence[int]) -> Tensor:
        latents = pictures(plain)
        with ExitStack() as stack:
            for number in acting:
                stack.enter_context(uses[number].on(base, any_base))
            return prediction(base, prompt, latents, seed)

    def done_by(acting: Sequence[int], prompt: str, plain: str) -> Tensor:
        return asked(prompt, plain, acting) - asked(prompt, plain, [])

    alone: dict[tuple[int, str], Tensor] = {}

    def own(number: int, cls: str) -> Tensor:
        """What an adapter does to pictures of a class, under its own word for it."""
        if (number, cls) not in alone:
            token = words[number][0]
            alone[number, cls] = done_by([number], usual.prompt(token, cls), usual.prompt("", cls))
        return alone[number, cls]

    found = {}
    for done, (a, b) in enumerate(pairs, 1):
        (one, cls), (other, other_cls) = words[a], words[b]
        same = [agreement(own(a, kind), own(b, kind)) for kind in dict.fromkeys((cls, other_cls))]
        plain = _two(cls, other_cls)
        first = done_by([a], _two(f"{one} {cls}", other_cls), plain)
        second = done_by([b], _two(cls, f"{other} {other_cls}"), plain)
        share = (math.nan, math.nan)
        if not (same_word(one, other) and uses[a].file.embeddings and uses[b].file.embeddings):
            both = done_by([a, b], _two(f"{one} {cls}", f"{other} {other_cls}"), plain)
            share = kept(both, first, second)
        found[a, b] = Together(
            agreement=sum(same) / len(same),
            heard=(_ratio(first, own(a, cls)), _ratio(second, own(b, other_cls))),
            kept=share,
        )
        tell(Progress("effects", done, len(pairs)))
    return found


def _two(left: str, right: str) -> str:
    return f"a {left} on the left and a {right} on the right"


def _ratio(value: Tensor, whole: Tensor) -> float:
    size = float(whole.norm())
    return float(value.norm()) / size if size > 0 else math.nan
