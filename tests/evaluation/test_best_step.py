"""Which step of a training is kept."""

import json
import math
from typing import Any

import pytest

from dreamtune.evaluation import BestStep, Score
from dreamtune.evaluation.best_step import MARGIN, MAX_LEAK, PROMPT_SHARE


def score(step: int, subject: float, **others: Any) -> Score:
    values = {"prompt": 0.9, "prompt_base": 0.9, "leak": 0.1, "drift": 0.1}
    return Score(step=step, subject=subject, **values | others)


def best(*scores: Score) -> int | None:
    chosen = BestStep(scores).best
    return chosen and chosen.step


def test_the_most_like_the_subject_wins() -> None:
    assert best(score(100, 0.2), score(200, 0.6), score(300, 0.4)) == 200


def test_a_later_step_must_be_better_by_more_than_noise() -> None:
    assert best(score(100, 0.6), score(200, 0.6 + 0.9 * MARGIN)) == 100
    assert best(score(100, 0.6), score(200, 0.6 + 1.1 * MARGIN)) == 200


def test_what_forgets_the_prompt_or_the_class_is_not_acceptable() -> None:
    lower, higher = 0.9 * (PROMPT_SHARE - 0.01), 0.9 * (PROMPT_SHARE + 0.01)
    assert best(score(100, 0.5), score(200, 0.9, prompt=lower)) == 100
    assert best(score(100, 0.5), score(200, 0.9, prompt=higher)) == 200
    assert best(score(100, 0.5), score(200, 0.9, leak=MAX_LEAK + 0.01)) == 100
    assert best(score(100, 0.5, leak=MAX_LEAK + 0.01), score(200, 0.3)) == 200
    assert best(score(100, 0.9, leak=1.0), score(200, 0.9, prompt=0.0)) is None


def test_what_cannot_be_told() -> None:
    assert best(score(100, math.nan, leak=math.nan)) is None
    assert best(score(100, 0.5, prompt=math.nan, prompt_base=math.nan)) == 100, "nothing says that it forgot"
    assert score(1, math.nan).to_dict()["subject"] is None


def test_a_line_of_the_curve_is_read_back() -> None:
    point = score(50, 0.25, drift=-0.0)
    line = json.dumps(point.to_dict())
    assert line.startswith('{"step": 50, "subject": 0.25, "prompt": 0.9,')
    assert '"drift": 0.0, "acceptable": true' in line
    assert Score.from_dict(json.loads(line)) == point
    assert math.isnan(Score.from_dict(score(1, math.nan).to_dict()).subject)


def test_following_a_curve_is_reading_it_at_once() -> None:
    """Weights are stored when they are the best: the choice may not depend on what comes later."""
    curve = [score(i, value) for i, value in enumerate((0.3, 0.315, 0.5, 0.2, 0.515, 0.525, 0.9))]
    choice = BestStep()
    taken = [point.step for point in curve if choice.add(point)]
    assert taken == [0, 2, 5, 6]
    assert best(*curve) == taken[-1]


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [((0.5, 0.4, 0.3), 2, True), ((0.5, 0.4, 0.6), 2, False), ((0.5, 0.4, 0.3), 0, False), ((0.5, 0.4), 2, False)],
)
def test_patience(values: tuple[float, ...], patience: int, expected: bool) -> None:
    assert BestStep(score(i, value) for i, value in enumerate(values)).exhausted(patience) is expected


def test_without_an_acceptable_step_training_goes_on() -> None:
    assert not BestStep(score(i, 0.5, leak=1.0) for i in range(9)).exhausted(2)
