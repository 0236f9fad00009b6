"""How the evaluators are measured: by individuals and look-alikes of which everything is known."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from dreamtune.pocket.pretrain.data import HELD_OUT, identity
from dreamtune.pocket.pretrain.judge import judge_identity, visibly_apart
from dreamtune.pocket.world import CLASSES, random_subject

PAIRS, VIEWS = 40, 2
"""Pairs of look-alikes, and pictures of each individual."""


def test_an_individual_is_not_apart_from_itself_nor_by_what_no_eye_sees() -> None:
    for number, cls in enumerate(CLASSES):
        subject = random_subject(Random(number), cls)
        assert not visibly_apart(subject, subject), cls
        shade = [min(255, channel + 8) for channel in subject.accent_rgb]
        assert not visibly_apart(subject, replace(subject, accent_rgb=(shade[0], shade[1], shade[2]))), cls


def test_another_coat_is_apart_in_either_order() -> None:
    cat = random_subject(Random(0), "cat", "white", "plain", hat=False)
    black = replace(cat, rgb=(20, 20, 20))
    assert visibly_apart(cat, black)
    assert visibly_apart(black, cat)


def test_a_small_part_is_not_enough() -> None:
    """The eyes turn from black to white, and everything else stays."""
    cat = random_subject(Random(0), "cat", "white", "plain", hat=False)
    assert not visibly_apart(replace(cat, eye_rgb=(0, 0, 0)), replace(cat, eye_rgb=(255, 255, 255)))


def test_few_look_alikes_are_drawn_as_one_by_chance() -> None:
    """Of the first 200 pairs of the exam a boat and a car, both plain."""
    numbers = range(HELD_OUT, HELD_OUT + 400, 2)
    alike = [i for i in numbers if not visibly_apart(identity(i), identity(i + 1))]
    assert [(i - HELD_OUT, identity(i).cls, identity(i).pattern) for i in alike] == [
        (38, "boat", "plain"),
        (308, "car", "plain"),
    ]


def individuals(twins: list[float], mates: float = 0.05) -> Tensor:
    """Unit rows (individuals * VIEWS, PAIRS + 2): each pair of look-alikes has an axis of its own.

    twins: cosine of the means of each pair; mates: angle between two pictures of one individual. Strangers have 0.
    """
    rows = []
    for pair, cosine in enumerate(twins):
        for member in (0, 1):
            middle = member * math.acos(cosine)
            for view in range(VIEWS):
                row, angle = torch.zeros(2 * len(twins)), middle + (view - 0.5) * mates
                row[2 * pair], row[2 * pair + 1] = math.cos(angle), math.sin(angle)
                rows.append(row)
    return torch.stack(rows)


def test_all_are_told_apart_by_embeddings_that_are_far_apart() -> None:
    found = judge_identity(individuals([0.0] * PAIRS), VIEWS, torch.ones(PAIRS, dtype=torch.bool))
    shares = [found[name] for name in found if name.startswith("accepted") or name.startswith("right")]
    assert shares == [1.0] * 4
    assert (found["individuals"], found["pairs_not_apart"]) == (2 * PAIRS, 0)
    assert found["mean_same"] == pytest.approx(math.cos(0.05))
    assert found["mean_strangers"] == pytest.approx(0, abs=1e-6)


def test_look_alikes_with_one_face_are_not_told_apart_and_strangers_are() -> None:
    found = judge_identity(individuals([1.0] * PAIRS), VIEWS, torch.ones(PAIRS, dtype=torch.bool))
    assert found["accepted_at_1pct_strangers"] == 1
    assert found["accepted_at_1pct_look_alikes"] < 0.1
    assert found["right_of_look_alikes"] < 0.8
    assert found["threshold_look_alikes"] > found["threshold_strangers"]


def test_pairs_that_no_eye_tells_apart_count_in_one_figure_alone() -> None:
    """Every fifth pair is of one face: marked so, it leaves all figures but one as if it were not there."""
    alike = torch.arange(PAIRS) % 5 == 0
    embeddings = individuals([1.0 if same else 0.0 for same in alike])
    blind = judge_identity(embeddings, VIEWS, torch.ones(PAIRS, dtype=torch.bool))
    seeing = judge_identity(embeddings, VIEWS, ~alike)
    assert (blind["pairs_not_apart"], seeing["pairs_not_apart"]) == (0, 8)
    assert blind["accepted_at_1pct_look_alikes"] < 0.1
    assert (seeing["accepted_at_1pct_look_alikes"], seeing["right_of_look_alikes"]) == (1, 1)
    assert seeing["mean_look_alikes"] < 0.1 < blind["mean_look_alikes"]
    assert seeing["accepted_at_1pct_of_all_look_alikes"] == blind["accepted_at_1pct_of_all_look_alikes"] < 0.1
    for name in ("accepted_at_1pct_strangers", "mean_same", "mean_strangers", "threshold_strangers"):
        assert seeing[name] == blind[name], "strangers and mates are the same ones"
