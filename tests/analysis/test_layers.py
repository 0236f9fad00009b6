import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamtune.adapters import Delta
from dreamtune.analysis import study, summarize
from dreamtune.analysis.chance import Null, chance
from tests.analysis.truth import SHAPE, along, decomposed, generator, random_change, random_weight


def test_exactly_the_shared_directions_are_reported() -> None:
    weight = random_weight()
    svd = decomposed(weight)
    rates = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    for m in (0, 3, 8):
        a = along(svd, list(range(8)), rates)
        b = along(svd, list(range(8 - m, 16 - m)), rates)
        (pair,) = study("x", weight, svd, {0: a, 1: b}).pairs
        assert (pair.shared, pair.k) == (m, 8)


def test_unrelated_changes_share_what_chance_says() -> None:
    """Many random pairs on one random weight: inside the interval, and on average at its mean."""
    weight = random_weight()
    svd = decomposed(weight)
    pairs = [
        study("x", weight, svd, {0: random_change(2 * i), 1: random_change(2 * i + 1)}).pairs[0] for i in range(1, 41)
    ]
    bounds = [(p.chance_low, p.shared, p.chance_high) for p in pairs]
    inside = [low <= shared <= high for low, shared, high in bounds if None not in (low, shared, high)]  # pyright: ignore[reportOperatorIssue]
    assert len(inside) == 40
    assert sum(inside) >= 36
    found = sum(p.shared or 0 for p in pairs) / len(pairs)
    expected = sum(p.chance or 0 for p in pairs) / len(pairs)
    error = (sum(p.chance_variance or 0 for p in pairs)) ** 0.5 / len(pairs)
    assert abs(found - expected) < 4 * error
    assert expected > 1.5 * (pairs[0].chance_uniform or 0), "small singular values are favoured by all"


def test_chance_of_a_flat_spectrum_is_hypergeometric() -> None:
    weight = torch.linalg.qr(torch.randn(64, 64, generator=generator(3))).Q
    svd = decomposed(weight)
    null = [Null.of(svd, random_change(i, shape=(64, 64)), 8, generator(i)) for i in range(2)]
    assert abs(chance(null[0], null[1]).mean - 1) < 0.1  # 8 * 8 / 64


def test_each_adapter_is_studied_alone() -> None:
    weight = random_weight()
    svd = decomposed(weight)
    one, two = random_change(1), random_change(2)
    alone, both = study("x", weight, svd, {1: one}), study("x", weight, svd, {0: two, 1: one})
    assert alone.pairs == ()
    assert torch.equal(alone.seen[1].tsd, both.seen[1].tsd)
    assert alone.seen[1].health == both.seen[1].health


def test_the_work_is_linear_in_adapters_but_for_pairs() -> None:
    """Multiplications of 1, 2, 3 and 6 adapters: a part for each, a part for each pair, and no other."""
    weight = random_weight()
    svd = decomposed(weight)
    changes = {i: random_change(i) for i in range(6)}
    assert all(len(it.svd.s) for it in changes.values())  # computed once for each, and kept

    def work(count: int) -> int:
        with FlopCounterMode(display=False) as counter:
            study("x", weight, svd, {i: changes[i] for i in range(count)})
        return counter.get_total_flops()

    one, two, three, six = (work(count) for count in (1, 2, 3, 6))
    several = two - three / 3  # of an adapter that has others beside it: 2a + p and 3a + 3p are known
    pair = two - 2 * several
    assert one <= several <= 1.2 * one
    assert six == pytest.approx(6 * several + 15 * pair)


def test_what_predictions_aim_at_holds_no_rounding() -> None:
    """A weight of rank 60 of 64: δ of its last directions is rounding over next to nothing."""
    svd = decomposed(random_weight())
    weight = (svd.u[:, :60] * svd.s[:60]) @ svd.v[:, :60].T
    svd = decomposed(weight)
    change = along(svd, list(range(10)), [0.9 - 0.05 * i for i in range(10)])
    seen = study("x", weight, svd, {0: change}).seen[0]
    assert seen.leading.tolist() == list(range(10))
    assert seen.tsd.tolist() == list(range(8))


def test_zero_changes_are_not_defined_rather_than_unlike() -> None:
    weight = random_weight()
    svd = decomposed(weight)
    zero = Delta.of_matrix(torch.zeros(SHAPE))
    layer = study("x", weight, svd, {0: zero, 1: random_change(1)})
    (pair,) = layer.pairs
    defined = {name for name, value in vars(pair).items() if value is not None}
    assert defined == {"a", "b", "k"} | ({"norm_ratio"} if pair.norm_ratio is not None else set())
    assert layer.seen[0].health.near_zero
    assert layer.seen[0].health.intruders is None
    assert summarize([layer], 0, 1)["overlap"] is None


def test_more_directions_than_the_layer_has() -> None:
    weight = random_weight(shape=(6, 5))
    svd = decomposed(weight)
    changes = {i: random_change(i, rank=2, shape=(6, 5)) for i in range(2)}
    (pair,) = study("x", weight, svd, changes, top_k=8).pairs
    assert (pair.k, pair.shared, pair.chance, pair.chance_uniform) == (5, 5, 5, 5)


def test_a_pair_of_blocks_is_the_mean_of_its_layers() -> None:
    weight = random_weight()
    svd = decomposed(weight)
    rates = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    layers = []
    for m in (2, 6):
        changes = {0: along(svd, list(range(8)), rates), 1: along(svd, list(range(8 - m, 16 - m)), rates)}
        layers.append(study(f"l{m}", weight, svd, changes))
    found = summarize(layers, 0, 1)
    assert found["overlap"] == 0.5
    assert found["layers"] == 2
    assert found["overlap_chance"] is not None and found["z"] is not None
    assert found["overlap_chance"] < 0.5
    assert found["z"] > 1
