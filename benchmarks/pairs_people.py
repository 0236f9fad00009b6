"""The subjects of `python -m benchmarks.pairs`, and their adapters: one training each, of each of three kinds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from dreamtune.errors import ConfigError
from dreamtune.fusion import Columns
from dreamtune.pipelines.train.run import load_run_config, train
from dreamtune.pocket import photographs
from dreamtune.pocket.world import Subject, random_subject
from dreamtune.training.config import TrainConfig
from dreamtune.training.presets import preset

FIRST_SEED = 9_000
"""Individuals from this seed on are used nowhere else."""
TRAININGS = {"lora": "lora", "blocks": "spectral-a", "orthogonal": "orthogonal"}
"""Name -> method. The last two learn on directions that no other subject has."""
RANK = 8
STEPS: int = preset("pocket", "lora")["steps"]
"""Of a training, if it is not told."""


@dataclass(frozen=True)
class Person:
    """One subject of the study."""

    number: int
    cls: str
    token: str

    @property
    def subject(self) -> Subject:
        """As the renderer knows it."""
        return random_subject(Random(f"subject {FIRST_SEED + self.number}"), self.cls)

    @property
    def name(self) -> str:
        """What prompts call it."""
        return f"a {self.token} {self.cls}"


PEOPLE = tuple(
    Person(number, cls, token)
    for number, (cls, token) in enumerate(
        [("cat", "sks"), ("cat", "zwx"), ("cat", "brul"), ("dog", "xob"), ("dog", "mofe"), ("dog", "ptix")]
    )
)
PAIRS = (
    *(pair for pair in combinations(PEOPLE, 2) if pair[0].cls == pair[1].cls),
    *((PEOPLE[i], PEOPLE[3 + (i + shift) % 3]) for shift in range(2) for i in range(3)),
)
"""Six of one class, six of two."""
TRIPLES = tuple((PEOPLE[i], PEOPLE[3 + (i + shift) % 3], PEOPLE[(i + 1) % 3]) for shift in range(2) for i in range(3))
"""A cat, a dog and another cat."""


def trained(person: Person, way: str, work: Path, steps: int, seed: int | None = None) -> Path:
    """The adapter of a subject: as it lies there, or trained, or trained on from where it was stopped.

    Each has a seed of its own: adapters of one seed begin with the same random values and share more than subjects do.

    Raises ConfigError if what lies there is of another number of steps.
    """
    again = "" if seed is None else f"-{seed}"
    pictures, run = work / "pictures" / person.token, work / "runs" / f"{person.token}-{way}{again}"
    pictures.mkdir(parents=True, exist_ok=True)
    for i, photo in enumerate(photographs(person.subject, 5, seed=FIRST_SEED + person.number)):
        photo.save(pictures / f"{i}.png")
    finished = (run / "report.json").is_file()  # the last that a training writes
    if finished or (run / "checkpoints").is_dir():
        begun = load_run_config(run)
        if begun.steps != steps:
            raise ConfigError(
                f"{run} is a training of {begun.steps} steps, not {steps}: take another --work or --steps"
            )
        return run / "adapter.safetensors" if finished else train(begun, run, resume=True).adapter
    config = TrainConfig(
        images=pictures,
        class_word=person.cls,
        token=person.token,
        method=TRAININGS.get(way, way),
        method_options=reserved(person, way, work),
        rank=RANK,
        steps=steps,
        seed=person.number if seed is None else seed,
    )
    return train(config, run).adapter


def reserved(person: Person, way: str, work: Path) -> dict[str, Any]:
    """What a training on a block of its own is told; the book refuses a block that overlaps another's."""
    kind = {"blocks": "spectral", "orthogonal": "orthogonal"}.get(way)
    if kind is None:
        return {}
    book = Columns(work / "columns.json")
    mine = [it for it in book.blocks("pocket") if (it.kind, it.concept) == (kind, person.token)]
    block = mine[0] if mine else book.reserve("pocket", person.token, kind, RANK)
    name, _, offset = block.option.partition("=")
    return {name: int(offset)}
