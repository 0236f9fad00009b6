"""Photographs show one individual in several places, and the sample subjects can be made again."""

import importlib
import re
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from PIL import Image

from dreamtune.pocket import draw_subject, photographs
from dreamtune.pocket.world import CONTEXTS, DEFAULT_SIZE, Scene, Subject, random_subject
from tests.house.tree import ROOT

SUBJECTS = ROOT / "examples" / "subjects"


def same(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> bool:
    """Whether two lists hold the same pixels."""
    return len(a) == len(b) and all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def test_a_seed_is_an_individual() -> None:
    pictures = draw_subject(7, 3, cls="dog")
    assert same(pictures, draw_subject(7, 3, cls="dog"))
    assert not same(pictures, draw_subject(8, 3, cls="dog"))
    assert not same(pictures, draw_subject(7, 3, cls="cat"))
    assert all(picture.size == (DEFAULT_SIZE, DEFAULT_SIZE) and picture.mode == "RGB" for picture in pictures)
    assert draw_subject(7, 1, 64)[0].size == (64, 64)


def test_places_are_not_repeated_while_some_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("dreamtune.pocket.photographs")  # the package exports a function of this name
    original = module.random_scene
    places: list[str] = []

    def spy(rng: Random, subjects: list[Subject], context: str, size: str, side: str) -> Scene:
        places.append(context)
        return original(rng, subjects, context, size, side)

    monkeypatch.setattr(module, "random_scene", spy)
    photographs(random_subject(Random(0)), 23, 0)
    assert set(places[:10]) == set(places[10:20]) == set(CONTEXTS)
    assert len(places) == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n = 0 must be at least 1"),
        ({"n": 1, "size": 0}, "size = 0 must be"),
        ({"n": 1, "size": 500}, "size = 500 must be"),
        ({"n": 1, "contexts": ()}, "contexts is empty"),
        ({"n": 1, "contexts": ("moon",)}, "unknown context 'moon'"),
    ],
)
def test_what_cannot_be_photographed(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        photographs(random_subject(Random(0)), seed=0, **arguments)  # pyright: ignore[reportArgumentType]


def test_unknown_class() -> None:
    with pytest.raises(ValueError, match="unknown class 'unicorn': choose from dog"):
        draw_subject(0, 1, cls="unicorn")


def test_sample_subjects_are_what_their_commands_draw() -> None:
    command = r"dreamtune pocket draw --subject (\d+) --class (\w+) --n (\d+) --out subjects/(\w+)"
    commands = re.findall(command, (SUBJECTS / "README.md").read_text(encoding="utf-8"))
    assert sorted(name for *_, name in commands) == sorted(p.name for p in SUBJECTS.iterdir() if p.is_dir())
    for seed, cls, n, name in commands:
        shipped = [Image.open(file).convert("RGB") for file in sorted((SUBJECTS / name).iterdir())]
        assert same(shipped, draw_subject(int(seed), int(n), cls=cls)), name
