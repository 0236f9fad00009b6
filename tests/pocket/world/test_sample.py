"""Random subjects and scenes: what is given is kept, and look-alikes differ only in what captions cannot say."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from dreamtune.pocket.world import (
    CLASSES,
    COLORS,
    CONTEXTS,
    HAT_CLASSES,
    PATTERNS,
    Scene,
    caption,
    look_alike,
    random_placement,
    random_scene,
    random_subject,
    render,
)


def test_the_generator_decides_everything() -> None:
    assert random_subject(Random(5)) == random_subject(Random(5))
    assert random_scene(Random(5)) == random_scene(Random(5))
    assert random_scene(Random(5)) != random_scene(Random(6))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_given_is_kept(cls: str, pattern: str) -> None:
    subject = random_subject(Random(0), cls, "pink", pattern, hat=True)
    assert (subject.cls, subject.color, subject.pattern) == (cls, "pink", pattern)
    assert (subject.hat is not None) == (cls in HAT_CLASSES)
    assert random_subject(Random(0), cls, hat=False).hat is None


def test_every_attribute_occurs() -> None:
    subjects = [random_subject(Random(i)) for i in range(400)]
    assert {s.cls for s in subjects} == set(CLASSES)
    assert {s.color for s in subjects} == set(COLORS)
    assert {s.pattern for s in subjects} == set(PATTERNS)
    assert {s.hat.kind for s in subjects if s.hat} == {0, 1, 2}
    assert all(s.pattern_color != s.color for s in subjects)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_look_alike_shares_every_caption_and_no_picture(cls: str) -> None:
    for seed in range(10):
        rng = Random(f"{cls} {seed}")
        scene = random_scene(rng, [random_subject(rng, cls)])
        double = replace(scene, subjects=(look_alike(rng, scene.subjects[0]),))
        assert all(caption(Random(k), scene) == caption(Random(k), double) for k in range(25))
        a, b = render(scene), render(double)
        seen = a.masks[0] | b.masks[0]
        assert np.abs(a.image.astype(int) - b.image)[seen].mean() > 5


def test_sides_and_sizes() -> None:
    places = {
        (size, side): random_placement(Random(0), "room", size, side)
        for size in ("small", "mid")
        for side in ("left", "center", "right")
    }
    for (size, side), placement in places.items():
        assert (placement.size, placement.side) == (size, side)
    assert places["mid", "left"].x < places["mid", "center"].x < places["mid", "right"].x
    big = random_placement(Random(0), "room", "big", "left")
    assert big.side == "center"
    assert places["small", "left"].scale < places["mid", "left"].scale < big.scale


def test_a_pair_stands_left_and_right() -> None:
    scene = random_scene(Random(0), pair_share=1)
    assert [p.side for p in scene.placements] == ["left", "right"]
    assert len(random_scene(Random(0), pair_share=0).subjects) == 1


def test_classes_can_be_narrowed() -> None:
    scenes = [random_scene(Random(i), classes=("dog", "mug")) for i in range(30)]
    assert {s.cls for scene in scenes for s in scene.subjects} == {"dog", "mug"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "unknown size 'huge': choose from small"),
        ({"side": "top"}, "unknown side 'top': choose from left"),
        ({"context": "moon"}, "unknown context 'moon': choose from beach"),
        ({"subjects": [random_subject(Random(0))] * 3}, "one or two subjects, not 3"),
        ({"subjects": [random_subject(Random(0), "unicorn")]}, "unknown class 'unicorn': choose from dog"),
        ({"subjects": [random_subject(Random(0), pattern="tartan")]}, "unknown pattern 'tartan': choose from plain"),
    ],
)
def test_unknown_words(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_scene(Random(0), **{"subjects": [random_subject(Random(1))], **arguments})  # pyright: ignore[reportArgumentType]


def test_subjects_without_a_place() -> None:
    with pytest.raises(ValueError, match="1 subjects but 0 placements"):
        Scene(next(iter(CONTEXTS)), 0, (random_subject(Random(0)),), ())
