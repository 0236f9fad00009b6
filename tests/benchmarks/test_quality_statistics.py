"""Intervals, paired tests and the choice of learning rates of the quality benchmark."""

import numpy as np
import pytest

from benchmarks.claims_table import row
from benchmarks.quality_plan import choose
from benchmarks.quality_statistics import Interval, bootstrap, by_subject, holm, interval, paired, verdict


def test_an_interval_is_around_the_mean_and_narrows_with_subjects() -> None:
    rng = np.random.default_rng(1)
    few = {f"s{i}": float(value) for i, value in enumerate(rng.normal(0.5, 0.1, 8))}
    many = {f"s{i}": float(value) for i, value in enumerate(rng.normal(0.5, 0.1, 200))}
    small, large = interval(few), interval(many)
    assert small.low < small.mean < small.high
    assert small.mean == pytest.approx(np.mean(list(few.values())))
    assert large.high - large.low < 0.4 * (small.high - small.low)
    assert large.high - large.low == pytest.approx(2 * 1.96 * 0.1 / 200**0.5, rel=0.15)
    assert interval(few) == small  # seeded


def test_an_interval_of_a_ratio_resamples_both_alike() -> None:
    assert bootstrap([1.0, 2.0, 3.0], over=[2.0, 4.0, 6.0]) == pytest.approx((0.5, 0.5))
    low, high = bootstrap([1.0, 2.0, 3.0, 4.0], over=[2.0, 4.0, 6.0, 4.0])
    assert low < 10 / 16 < high
    values = [0.0, 1.0] * 10
    assert bootstrap(values, over=[2.0] * 20) == pytest.approx([bound / 2 for bound in bootstrap(values)])


def test_the_order_of_subjects_does_not_matter() -> None:
    values = {"b": 0.1, "a": 0.4, "c": 0.2}
    assert interval(values) == interval(dict(sorted(values.items())))


def test_the_sign_flip_test_is_exact() -> None:
    better = {f"s{i}": 0.5 + 0.01 * i for i in range(6)}
    worse = {name: value - 0.1 for name, value in better.items()}
    difference, p = paired(better, worse)
    assert difference.mean == pytest.approx(0.1)
    assert p == 2 / 2**6  # of all sign patterns only the observed one and its mirror image reach that far
    mixed = {"a": 0.2, "b": -0.1, "c": -0.1}  # a mean of exactly 0: every pattern reaches that
    assert paired(mixed, dict.fromkeys(mixed, 0.0))[1] == 1


def test_only_common_subjects_are_compared() -> None:
    assert paired({"a": 1.0, "b": 2.0}, {"b": 1.0, "c": 5.0})[0].n == 1


def test_holm_corrects_for_the_number_of_comparisons() -> None:
    assert holm({"x": 0.01, "y": 0.04, "z": 0.03}) == pytest.approx({"x": 0.03, "z": 0.06, "y": 0.06})
    assert holm({"x": 0.9, "y": 0.8}) == {"y": 1.0, "x": 1.0}


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0.1, 0.2, "holds"), (-0.2, -0.1, "does not"), (-0.1, 0.1, "unclear")]
)
def test_an_interval_decides_a_claim(low: float, high: float, told: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 8)) == told


def test_a_claim_holds_only_if_all_of_its_differences_do() -> None:
    above, below = {"a": 0.1, "b": 0.2, "c": 0.15}, {"a": -0.1, "b": -0.2, "c": -0.15}
    around = {"a": -0.1, "b": 0.2, "c": 0.0}

    def told(**differences: dict[str, float]) -> str:
        return row("claim", "source", "criterion", differences)["verdict"]

    assert told(one=above) == "holds"
    assert told(one=above, two=around) == "unclear"
    assert told(one=above, two=around, three=below) == "does not"


def test_seeds_of_a_subject_are_averaged_first() -> None:
    rows = [{"subject": "a", "x": 0.0}, {"subject": "a", "x": 1.0}, {"subject": "b", "x": 2.0}]
    assert by_subject(rows, "x") == {"a": 0.5, "b": 2.0}


def test_both_is_high_only_where_both_are() -> None:
    rows = [
        {"subject": str(i), "fidelity": f, "prompt": p} for i, (f, p) in enumerate([(0.8, 0.8), (0.9, 0.3), (0, 1)])
    ]
    assert by_subject(rows, "both") == pytest.approx({"0": 0.8, "1": 0.45, "2": 0.0})
    assert by_subject([*rows, rows[0] | {"fidelity": -0.2}], "both")["0"] == pytest.approx(0.4)


def _tried(subject: float, prompt: float = 0.9, leak: float = 0.0) -> list[dict[str, float]]:
    return [{"fidelity": subject, "prompt": prompt, "prompt_base": 0.9, "leak": leak}]


def test_the_rate_is_taken_that_has_subject_and_prompts() -> None:
    told = choose((1, 2, 3), [_tried(0.3), _tried(0.5), _tried(0.9, prompt=0.2)])
    assert (told["chosen"], told["at_the_edge"]) == (2, False)
    assert [it["acceptable"] for it in told["tried"]] == [True, True, False]
    assert choose((1, 2), [_tried(0.4), _tried(0.7, prompt=0.7)])["chosen"] == 2
    assert choose((1, 2, 3), [_tried(0.3), _tried(0.4), _tried(0.5)])["at_the_edge"]


def test_a_training_that_failed_is_never_taken() -> None:
    told = choose((1, 2, 3), [_tried(0.3), _tried(0.4), [{"failed": "the loss became nan"}]])
    assert told["chosen"] == 2
    assert told["tried"][2]["subject"] is None
    assert choose((1, 2), [_tried(-0.1), _tried(0.0)])["chosen"] == 1
