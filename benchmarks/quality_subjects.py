"""Who is learned and how it is asked for: individuals of the pocket world, fixed by seed.

Held-out subjects come in pairs that no caption can tell apart. Learning rates are chosen on other individuals, of other
classes where the base knows more than the held-out ones need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random

import numpy as np
from PIL import Image

from dreamtune.evaluation import PromptPair
from dreamtune.evaluation.prompts import PLACES
from dreamtune.pocket import path, photographs
from dreamtune.pocket.world import CONTEXTS, Subject, look_alike, random_scene, random_subject, render

PAIRS = 4
"""Pairs of look-alikes, each of another class: twice as many held-out subjects."""
TUNING = 2
"""Subjects that learning rates are chosen on."""
PHOTOS = 5
"""Photographs that training sees."""
REFERENCES = 12
"""Renders that generated pictures are compared with."""
STRANGERS, VIEWS = 40, 5
"""Look-alikes of a subject, and pictures of each, that set the threshold of its verification."""
TOKEN = "sks"


@dataclass(eq=False)
class Individual:
    """A subject with all pictures that do not depend on an adapter."""

    name: str
    """Class, number and, for held-out ones, which of the pair: "dog 0a"."""
    subject: Subject
    places: tuple[str, ...]
    """Names of the contexts of its photographs."""
    photos: list[Image.Image]
    unseen: list[Image.Image]
    """As many others in the same places, which training does not see."""
    references: list[Image.Image]
    real: list[Image.Image]
    """What a perfect adapter would draw: the subject as each prompt asks for it."""
    twin: list[Image.Image]
    """References of its look-alike."""

    @cached_property
    def strangers(self) -> list[Image.Image]:
        """Pictures of other look-alikes; there are many, and not everybody needs them."""
        rng = Random(f"quality strangers {self.name}")
        others = [look_alike(rng, self.subject) for _ in range(STRANGERS)]
        return [it for i, who in enumerate(others) for it in photographs(who, VIEWS, seed=10_000 + i)]

    @property
    def cls(self) -> str:
        """Its class word."""
        return self.subject.cls


def classes() -> list[str]:
    """The classes that the base knows."""
    return json.loads((path() / "training.json").read_text(encoding="utf-8"))["config"]["classes"]


def held_out() -> list[str]:
    """Names of the subjects that results are measured on."""
    return [f"{classes()[pair]} {pair}{which}" for pair in range(PAIRS) for which in "ab"]


def look_alike_of(name: str) -> str:
    """Name of the other one of a held-out subject's pair."""
    return name[:-1] + ("b" if name.endswith("a") else "a")


def tuning() -> list[str]:
    """Names of the subjects that learning rates are chosen on."""
    known = classes()
    return [f"{known[(PAIRS + i) % len(known)]} tuning {i}" for i in range(TUNING)]


@cache
def individual(name: str) -> Individual:
    """The individual of that name, the same on every machine."""
    cls, rest = name.split(" ", 1)
    pair = rest.rstrip("ab")
    first = random_subject(Random(f"quality {pair}"), cls)
    second = look_alike(Random(f"quality {pair} look-alike"), first)
    subject, other = (second, first) if rest.endswith("b") else (first, second)
    seed = int.from_bytes(Random(f"quality pictures {name}").randbytes(3), "big")
    places = tuple(Random(f"quality places {name}").sample(list(CONTEXTS), PHOTOS))
    return Individual(
        name=name,
        subject=subject,
        places=places,
        photos=photographs(subject, PHOTOS, seed, contexts=places),
        unseen=photographs(subject, PHOTOS, seed + 1, contexts=places),
        references=photographs(subject, REFERENCES, seed + 2),
        real=_as_asked(subject, Random(f"quality real {name}")),
        twin=photographs(other, REFERENCES, seed + 3),
    )


def prompts(cls: str, token: str = TOKEN) -> list[PromptPair]:
    """Twenty: the subject in ten places, on the left of five of them, and small in the other five."""
    texts = [f"a {{token}} {{class}} {place}" for place in PLACES]
    texts += [f"a {{token}} {{class}} on the left {place}" for place in PLACES[:5]]
    texts += [f"a small {{token}} {{class}} {place}" for place in PLACES[5:]]
    return [PromptPair.of(text, token, cls) for text in texts]


def _as_asked(subject: Subject, rng: Random) -> list[Image.Image]:
    names = {words: name for name, words in CONTEXTS.items()}
    pictures = []
    for pair in prompts(subject.cls):
        context = next(name for words, name in names.items() if pair.bare.endswith(words))
        size, side = ("small", None) if " small " in pair.bare else ("mid", "left" if " left " in pair.bare else None)
        pictures.append(Image.fromarray(render(random_scene(rng, [subject], context, size, side)).image))
    return pictures


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    """(n, 3·h·w) fp32, 0 to 1."""
    return np.stack([np.asarray(picture, np.float32).ravel() / 255 for picture in pictures])
