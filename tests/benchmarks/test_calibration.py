"""The calibration's statistics, on forecasts of which it is known how good they are."""

import json
import random

import pytest

from benchmarks.calibration import CALIBRATION, WAYS, Way, by_size, correlation, excerpt, summary
from benchmarks.machine import RESULTS


def test_the_package_has_what_was_measured() -> None:
    measured = json.loads((RESULTS / "calibration.json").read_text(encoding="utf-8"))
    assert json.loads(CALIBRATION.read_text(encoding="utf-8")) == excerpt(measured)


PAIRED = [way for way in WAYS if way[1] != way[2]]


@pytest.fixture
def losses() -> dict[Way, float]:
    source = random.Random(0)
    return {way: source.random() for way in PAIRED}


def test_a_perfect_forecast_and_an_opposite_one(losses: dict[Way, float]) -> None:
    assert correlation({way: loss**3 for way, loss in losses.items()}, losses) == pytest.approx(
        {"spearman": 1, "low": 1, "high": 1}
    )
    assert correlation({way: -loss for way, loss in losses.items()}, losses)["spearman"] == pytest.approx(-1)


def test_a_forecast_that_knows_nothing_is_not_told_from_none(losses: dict[Way, float]) -> None:
    source = random.Random(1)
    found = correlation({way: source.random() for way in PAIRED}, losses)
    low, high = found["low"], found["high"]
    assert low is not None and high is not None and low < 0 < high


def test_losses_by_size_of_the_forecast() -> None:
    ways = PAIRED[:9]
    values = {way: float(n) for n, way in enumerate(ways)}
    rows = by_size(values, {way: -value for way, value in values.items()})
    assert [(row["from"], row["to"], row["ways"], row["median"]) for row in rows] == [
        (0, 2, 3, -1), (3, 5, 3, -4), (6, 8, 3, -7)
    ]  # fmt: skip


def test_loss_is_what_the_drawing_adapter_loses() -> None:
    """Alone each has 0.9; adding a subject of the same class costs 0.3, of another 0.1."""
    fidelity = {}
    for training, i, j in WAYS:
        same = i // 3 == j // 3  # the study's first three are of one class, the others of another
        fidelity[training, i, j] = 0.9 if i == j else 0.6 if same else 0.8
    crosstalk = {(t, i, j): 2.0 if i // 3 == j // 3 else 1.0 for t, i, j in PAIRED}
    told = summary({"crosstalk": crosstalk}, fidelity)
    assert told["pairs"] == 45
    assert told["fidelity_alone"] == pytest.approx({"mean": 0.9, "least": 0.9})
    assert (told["loss"]["same_class"], told["loss"]["two_classes"]) == pytest.approx((0.3, 0.1))
    assert told["correlation"]["crosstalk"]["spearman"] == pytest.approx(1)
    assert {round(way["loss"], 6) for way in told["ways"]} == {0.3, 0.1}
