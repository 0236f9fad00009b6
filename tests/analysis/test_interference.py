import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.adapters import Delta
from dreamtune.analysis import advise, crosstalk, free_columns, recorded, total_crosstalk
from dreamtune.analysis.interference import Recording
from tests.analysis.truth import along, decomposed, generator, random_change, random_weight

SHAPE = (5, 7)


def record(inputs: list[Tensor], changes: dict[int, Delta]) -> list[Recording]:
    layer = nn.Linear(7, 5, bias=False).requires_grad_(False)
    gains, recordings = {j: change.gain for j, change in changes.items()}, []
    for drawing, x in enumerate(inputs):
        with recorded({"layer": layer}, {"layer": gains}, len(inputs), drawing) as recording:
            layer(x)
            layer(x)
        recordings.append(recording)
    assert not layer._forward_hooks
    return recordings


def test_crosstalk_is_the_trace_of_its_definition() -> None:
    changes = {i: random_change(i, rank=2, shape=SHAPE) for i in range(2)}
    inputs = [torch.randn(3, 4, 7, generator=generator(i)) for i in range(2)]
    recordings = record(inputs, changes)
    found = crosstalk(recordings, "layer")
    for i in range(2):
        second_moment = inputs[i].flatten(0, 1).T @ inputs[i].flatten(0, 1) / 12
        own, other = (float((d @ second_moment @ d.T).trace()) for d in (changes[i].dense(), changes[1 - i].dense()))
        assert float(found[i, 1 - i]) == pytest.approx(other / own, rel=1e-4)
        assert float(found[i, i]) == 1
        assert recordings[i].own["layer"] == pytest.approx([12 * own] * 2, rel=1e-4)
    assert torch.allclose(total_crosstalk(recordings), found)


def test_crosstalk_of_convolutions_is_that_of_their_outputs() -> None:
    layer = nn.Conv2d(2, 5, (3, 2), padding=1, bias=False).requires_grad_(False)
    changes = {i: random_change(i, rank=2, shape=(5, 12)) for i in range(2)}
    inputs, recordings = [torch.randn(3, 2, 4, 6, generator=generator(i)) for i in range(2)], []
    for drawing, x in enumerate(inputs):
        gains = {j: change.gain for j, change in changes.items()}
        with recorded({"layer": layer}, {"layer": gains}, 2, drawing) as recording:
            layer(x)
        recordings.append(recording)
    found = crosstalk(recordings, "layer")
    for i, x in enumerate(inputs):
        own, other = (
            float(F.conv2d(x, changes[j].dense().view(5, 2, 3, 2), padding=1).square().sum()) for j in (i, 1 - i)
        )
        assert float(found[i, 1 - i]) == pytest.approx(other / own, rel=1e-4)
        assert recordings[i].own["layer"] == pytest.approx([own], rel=1e-4)


def test_it_forecasts_what_adding_the_other_does() -> None:
    """The relative change of the output, measured by adding the weights, is the square root of X."""
    changes = {i: random_change(i, rank=2, shape=SHAPE) for i in range(2)}
    x = torch.randn(6, 7, generator=generator(9))
    found = crosstalk(record([x, x], changes), "layer")
    own, both = x @ changes[0].dense().T, x @ (changes[0].dense() + changes[1].dense()).T
    assert float(((both - own).norm() / own.norm()) ** 2) == pytest.approx(float(found[0, 1]), rel=1e-4)


def test_a_layer_that_one_adapter_leaves_alone() -> None:
    changes = {1: random_change(1, rank=2, shape=SHAPE)}
    x = torch.randn(3, 7, generator=generator(0))
    recordings = record([x, x], changes)
    found = crosstalk(recordings, "layer")
    assert found.isnan().tolist() == [[True, True], [True, False]]
    assert advise(recordings, 0, 1).strengths is None


def test_advice_balances_and_names_the_dominant() -> None:
    small = random_change(1, rank=2, shape=SHAPE)
    up, down = small.up, small.down
    large = Delta.of_factors(4 * up, down)
    x = torch.randn(50, 7, generator=generator(0))
    advice = advise(record([x, x], {0: small, 1: large}), 0, 1)
    assert advice.dominant == 1
    assert advice.strengths == pytest.approx((1.0, 0.25), rel=1e-4)
    assert advise(record([x, x], {0: small, 1: random_change(2, rank=2, shape=SHAPE)}), 0, 1).dominant is None


def test_layers_where_each_disturbs_the_other_more_than_it_does_itself_are_to_be_routed() -> None:
    a, b = (random_change(i, rank=2, shape=SHAPE) for i in range(2))
    noise = 0.1 * torch.randn(50, 7, generator=generator(0))
    seen_by_a, seen_by_b = ((noise @ change.v.float()) @ change.v.T.float() for change in (a, b))
    assert advise(record([seen_by_b, seen_by_a], {0: a, 1: b}), 0, 1).route == ("layer",)
    assert advise(record([seen_by_a, seen_by_b], {0: a, 1: b}), 0, 1).route == ()


def test_free_columns_are_those_that_nobody_uses() -> None:
    svd = decomposed(random_weight())
    used = along(svd, [0, 1, 4], [1.0, 1.0, 1.0])
    columns = (svd.v.double().T @ (used.v * used.s)).square().sum(1) / used.norm**2
    blocks = dict(free_columns([[columns]], width=2, blocks=4))
    assert blocks[1] == pytest.approx(0, abs=1e-9)
    assert blocks[3] == pytest.approx(0, abs=1e-9)
    assert list(blocks)[:2] == [1, 3]
    assert free_columns([[columns]], width=100, blocks=4) == []
