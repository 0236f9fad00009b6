"""The embedded base's evaluators as a judge."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from dreamtune.data.cache import weights_digest
from dreamtune.models import Base
from dreamtune.pocket import WEIGHTS
from dreamtune.pocket.evaluators import Evaluators, Reading
from dreamtune.pocket.world import CLASSES, COLORS, CONTEXTS


@dataclass(frozen=True)
class PocketJudge:
    """Identity by the evaluators' embedding, prompts by reading the picture."""

    evaluators: Evaluators
    name: str = "pocket"

    @classmethod
    def load(cls) -> Self:
        """The shipped evaluators. Raises BaseModelError when they are missing."""
        return cls(Evaluators.load())

    def identity(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(n, 96) unit rows of the most certainly found subject of each picture."""
        return self.evaluators.identity(pictures)

    def prompt_scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """(n,) share of what each prompt asks for that the picture shows, see :func:`shown`."""
        readings = self.evaluators.read(pictures)
        return torch.tensor([shown(reading, prompt) for reading, prompt in zip(readings, prompts, strict=True)])


def digest(base: Base) -> str:
    """Of a base's weights and of the shipped evaluators': what figures on the embedded base depend on."""
    total = hashlib.sha256()
    for part in (base.unet, base.vae, base.text_encoder):
        total.update(weights_digest(part).encode())
    for file in sorted((WEIGHTS / "evaluators").glob("*.safetensors")):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def shown(reading: Reading, prompt: str) -> float:
    """Share of what a prompt asks for that the picture shows: context, class, and the class's color if named.

    NaN when the prompt names none of these that the pocket world knows.
    """
    answers = [reading.context == name for name, words in CONTEXTS.items() if prompt.endswith(words)]
    words = prompt.split()
    for before, word in zip(["", *words], words, strict=False):
        if word in CLASSES:
            answers.append(reading.main.cls == word)
            if before in COLORS:
                answers.append(before in reading.main.colors)
            break
    return sum(answers) / len(answers) if answers else math.nan
