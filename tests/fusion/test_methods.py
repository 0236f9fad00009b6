"""What every fusion must do, over FUSIONS and METHODS themselves, and what each is by definition."""

import itertools
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile, Delta
from dreamtune.errors import ConfigError
from dreamtune.fusion import FUSIONS, FusionOptions, Inputs, WeightedAdapter, fuse_layers
from dreamtune.fusion.layer_deltas import LayerDelta, balanced
from dreamtune.names import RECORDED, THINNED
from tests.adapters.nets import attached_to, frozen_net

NET = frozen_net(torch.float32)
SHAPE = (20, 32)


@cache
def file_of(method: str, seed: int = 0) -> AdapterFile:
    with attached_to(NET, method, seed) as attached:
        return AdapterFile.from_attached(attached, base="b", token=f"t{seed}", class_word="dog", training={})


def moment(size: int, seed: int) -> Tensor:
    """C (in, in) of random inputs, of some directions more than others."""
    x = torch.randn(50, size, generator=torch.Generator().manual_seed(seed)) * torch.linspace(1, 0.1, size)
    return x.T @ x / len(x)


def inputs_of(ingredients: list[WeightedAdapter]) -> Inputs:
    """What layers might get, other things for each adapter."""
    sizes = {path: record.shape[1] for it in ingredients for path, record in it.file.layers.items()}
    taken = [it for it in ingredients if it.weight]
    own = [{path: moment(size, sum(map(ord, it.name))) for path, size in sizes.items()} for it in taken]
    return Inputs(own, {path: moment(size, 1000) for path, size in sizes.items()})


def options(fusion: str, density: float = 1.0, **more: object) -> FusionOptions:
    return FusionOptions(fusion, density if fusion in THINNED else None, **more)  # pyright: ignore[reportArgumentType]


def fused(ingredients: list[WeightedAdapter], fusion: str, **more: float) -> dict[str, Tensor]:
    weights = {path: w for it in ingredients for path, w in it.file.weights({"unet": NET}).items()}
    layers = fuse_layers(ingredients, options(fusion, **more), weights, inputs=inputs_of(ingredients))
    return {path: delta.dense() for path, delta in layers}


def change(file: AdapterFile) -> dict[str, Tensor]:
    weights = file.weights({"unet": NET})
    return {path: adapter.delta_weight(weights[path]).detach() for path, adapter in file.adapters().items()}


def low(rank: int, seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta.of_factors(
        torch.randn(SHAPE[0], rank, generator=generator), torch.randn(rank, SHAPE[1], generator=generator)
    )


def full(seed: int) -> Delta:
    return Delta.of_matrix(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)))


def run(fusion: str, deltas: list[Delta], weights: list[float] | None = None, density: float = 1.0) -> Tensor:
    weights = weights or [1.0] * len(deltas)
    size = deltas[0].shape[1]
    parts = [
        LayerDelta(delta, weight, seed, moment(size, seed), moment(size, 1000))
        for seed, (delta, weight) in enumerate(zip(deltas, weights, strict=True))
    ]
    return FUSIONS[fusion](parts, density).dense()


@pytest.mark.parametrize("balance", [None, "weights", "output"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_adapter_fuses_to_itself(fusion: str, method: str, balance: str | None) -> None:
    file, alone = file_of(method), [WeightedAdapter("a", file_of(method))]
    weights = file.weights({"unet": NET})
    found = dict(fuse_layers(alone, options(fusion, balance=balance), weights, inputs=inputs_of(alone)))
    assert found.keys() == file.layers.keys()
    for path, expected in change(file).items():
        torch.testing.assert_close(found[path].dense(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_order_does_not_matter(fusion: str, density: float) -> None:
    ingredients = [
        WeightedAdapter(m, file_of(m, seed), 1 + 0.3 * seed) for seed, m in enumerate(("lora", "loha", "dora"))
    ]
    first = fused(ingredients, fusion, density=density)
    for order in itertools.permutations(ingredients):
        for path, found in fused(list(order), fusion, density=density).items():
            torch.testing.assert_close(found, first[path], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_weight_zero_removes_an_adapter_exactly(fusion: str, method: str) -> None:
    kept, other = WeightedAdapter("a", file_of("lora"), 0.7), WeightedAdapter("b", file_of(method, 1), 0.0)
    expected = fused([kept], fusion, density=0.5)
    found = fused([kept, other], fusion, density=0.5)
    assert all(torch.equal(found[path], expected[path]) for path in expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_weights_by_layer(fusion: str) -> None:
    a, b = file_of("lora"), file_of("lora-dash", 1)
    found = fused([WeightedAdapter("a", a), WeightedAdapter("b", b, 1.0, {"second": 0.0})], fusion)
    assert torch.equal(found["block.second"], fused([WeightedAdapter("a", a)], fusion)["block.second"])
    assert torch.equal(found["first"], fused([WeightedAdapter("a", a), WeightedAdapter("b", b)], fusion)["first"])


def apart(number: int) -> tuple[Delta, Tensor]:
    """A change that shares neither rows nor columns with those of other numbers, and inputs that it alone sees."""
    generator, own = torch.Generator().manual_seed(number), slice(5 * number, 5 * number + 5)
    matrix, seen = torch.zeros(SHAPE), torch.zeros(SHAPE[1], SHAPE[1])
    matrix[own, own] = torch.randn(5, 5, generator=generator)
    seen[own, own] = torch.eye(5)
    return Delta.of_matrix(matrix), seen


@pytest.mark.parametrize("low_rank", [True, False], ids=["factors", "matrices"])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.0, 0.5, 1.0), (-3.0, 0.25, 0.5)])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_weight_is_a_factor_on_its_change(fusion: str, weights: tuple[float, ...], low_rank: bool) -> None:
    """Of adapters that have nothing in common, each is there λ times, and the n-th of that in a mean of n."""
    changes = [apart(number) for number in range(len(weights))]
    parts = []
    for (delta, seen), weight in zip(changes, weights, strict=True):
        u, s, vh = delta.svd.u, delta.svd.s, delta.svd.v.T
        given = Delta.of_factors((u * s).float(), vh.float()) if low_rank else delta
        parts.append(LayerDelta(given, weight, 0, seen, torch.eye(SHAPE[1])))
    expected = torch.stack([weight * delta.dense() for (delta, _), weight in zip(changes, weights, strict=True)]).sum(0)
    close = 2e-2 if fusion in RECORDED else 1e-5  # those have a ridge
    found = FUSIONS[fusion](parts, 1.0).dense() * (len(weights) if fusion == "mean" else 1)
    torch.testing.assert_close(found, expected, rtol=close, atol=close)


@pytest.mark.parametrize("factor", [3.0, -0.5])
@pytest.mark.parametrize(("fusion", "density"), [(name, d) for name in FUSIONS for d in (1.0, 0.4)])
def test_a_factor_on_all_weights_is_one_on_the_result(fusion: str, density: float, factor: float) -> None:
    deltas, weights = [low(2, 0), full(1), low(3, 2)], [1.0, 0.7, 1.6]
    plain = run(fusion, deltas, weights, density)
    scaled = run(fusion, deltas, [factor * weight for weight in weights], density)
    torch.testing.assert_close(scaled, factor * plain, rtol=1e-4, atol=1e-4)
    other = run(fusion, deltas, [1.6, 0.7, 1.0], density)
    assert float((other - plain).norm()) > 0.05 * float(plain.norm())


@pytest.mark.parametrize("deltas", [[low(2, 0), low(3, 1)], [low(2, 0), full(1)], [full(0), full(1)]])
def test_sum_and_mean_are_those_of_the_matrices(deltas: list[Delta]) -> None:
    expected = 0.5 * deltas[0].dense() - 2 * deltas[1].dense()
    torch.testing.assert_close(run("sum", deltas, [0.5, -2]), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run("mean", deltas, [0.5, -2]), expected / 2, rtol=1e-5, atol=1e-5)


def test_ties_by_hand() -> None:
    one = Delta.of_matrix(torch.tensor([[4.0, -3.0, 0.5, 2.0]]))
    other = Delta.of_matrix(torch.tensor([[2.0, 5.0, 0.1, -3.0]]))
    # trimmed to [4 -3 0 0] and [0 5 0 -3]; signs elected + + 0 -; means over those that agree
    assert run("ties", [one, other], density=0.5).tolist() == [[4.0, 5.0, 0.0, -3.0]]
    assert run("ties", [one, other]).tolist() == [[3.0, 5.0, pytest.approx(0.3), -3.0]]


def test_magnitude_by_hand() -> None:
    one, other = Delta.of_matrix(torch.tensor([[4.0, -3.0, 0.5, 2.0]])), Delta.of_matrix(torch.ones(1, 4))
    assert run("magnitude", [one, other], [1, 0.0001], density=0.5)[0].tolist() == pytest.approx(
        [4.0001, -2.9999, 0.0, 0.0]
    )


@pytest.mark.parametrize("density", [1e-4, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0])
@pytest.mark.parametrize("fusion", ["ties", "magnitude"])
def test_exactly_the_share_is_kept_where_values_tie(fusion: str, density: float) -> None:
    """Of many equal values those that stand first; a layer of few values, as quantised ones are, has many."""
    values = torch.randint(1, 4, SHAPE, generator=torch.Generator().manual_seed(0)).float()
    for matrix in (torch.full(SHAPE, 0.25), values, -values):
        found = run(fusion, [Delta.of_matrix(matrix)], density=density)
        keep = max(1, round(density * matrix.numel()))
        order = matrix.abs().flatten().sort(descending=True, stable=True).indices
        expected = torch.zeros(matrix.numel())
        expected[order[:keep]] = matrix.flatten()[order[:keep]]
        assert torch.equal(found.flatten(), expected)


def test_dare_keeps_a_share_and_the_expectation() -> None:
    delta = Delta.of_matrix(torch.ones(300, 300))
    found = FUSIONS["dare"]([LayerDelta(delta, 1.0, seed=5)], 0.25).dense()
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert float((found != 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(FUSIONS["dare"]([LayerDelta(delta, 1.0, seed=5)], 0.25).dense(), found)
    assert not torch.equal(FUSIONS["dare"]([LayerDelta(delta, 1.0, seed=6)], 0.25).dense(), found)


def test_tsv_takes_the_overlap_out() -> None:
    """Two changes with orthogonal singular vectors only add up; alike ones become orthogonal."""
    basis_u = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0))).Q
    basis_v = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1))).Q
    apart = [Delta.of_factors(basis_u[:, i : i + 2] * 3, basis_v[:, i : i + 2].T) for i in (0, 2)]
    torch.testing.assert_close(run("tsv", apart), apart[0].dense() + apart[1].dense(), rtol=1e-5, atol=1e-5)
    near = [low(2, 0), low(2, 0).scaled(0.5)]
    mixed = [near[0], Delta.of_factors(near[1].up + 0.1 * low(2, 3).up, near[1].down + 0.1 * low(2, 3).down)]
    values = torch.linalg.svdvals(run("tsv", mixed).double())
    expected = torch.cat([delta.svd.s for delta in mixed]).sort(descending=True).values
    torch.testing.assert_close(values[:4], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("deltas", "ranks"),
    [
        ([low(15, 0), low(5, 1)], [15, 5]),  # all 20 columns that the layer can have
        ([low(8, 0), low(6, 1), low(6, 2)], [8, 6, 6]),
        ([full(0), full(1)], [10, 10]),
        ([full(0), Delta.zero(SHAPE), full(1)], [10, 0, 10]),
        ([full(0), low(5, 1)], [15, 5]),
        ([full(0), low(5, 1), full(2)], [7, 5, 7]),
    ],
    ids=["two fit", "three fit", "two full", "one of three is 0", "one is low", "one of three is low"],
)
def test_tsv_cuts_only_what_does_not_fit(deltas: list[Delta], ranks: list[int]) -> None:
    found = torch.linalg.svdvals(run("tsv", deltas).double())
    values = [delta.svd.s[:rank] for delta, rank in zip(deltas, ranks, strict=True)]
    expected = torch.cat(values).sort(descending=True).values
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-4)
    assert float(found[len(expected) :].sum()) < 1e-4


def test_tsv_adds_no_directions_where_changes_share_theirs() -> None:
    """As those of one frozen A do: no order, and no direction that is in none of them."""
    torch.testing.assert_close(run("tsv", [low(3, 0), low(3, 0)]), low(3, 0).dense(), rtol=1e-5, atol=1e-5)
    down = low(3, 0).down
    parts = _parts([Delta.of_factors(low(3, seed).up, down) for seed in (1, 2)])
    found = FUSIONS["tsv"](parts, 1.0).dense()
    torch.testing.assert_close(FUSIONS["tsv"](parts[::-1], 1.0).dense(), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found @ torch.linalg.pinv(down) @ down, found, rtol=1e-5, atol=1e-5)


def test_tsv_takes_more_adapters_than_a_layer_has_rows() -> None:
    deltas = [Delta.of_matrix(torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))) for seed in range(3)]
    found = run("tsv", deltas)
    assert float(found.norm()) > 1
    torch.testing.assert_close(run("tsv", deltas[::-1]), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("deltas", [[low(2, 0), low(3, 1)], [low(2, 0), full(1)]])
@pytest.mark.parametrize("density", [1.0, 0.4])
def test_knots_follows_its_definition(deltas: list[Delta], density: float) -> None:
    """By the SVD of the matrices themselves, side by side."""
    stacked = torch.cat([delta.dense() for delta in deltas], 1).double()
    u, s, vh = torch.linalg.svd(stacked, full_matrices=False)
    keep = int((s > 1e-6 * s[0]).sum())
    blocks = [Delta.of_matrix(block) for block in vh[:keep].chunk(2, 1)]
    expected = (u[:, :keep] * s[:keep]) @ run("ties", blocks, density=density)
    torch.testing.assert_close(run("knots", deltas, density=density).double(), expected, rtol=1e-4, atol=1e-4)


def test_balance_evens_out_the_norms_of_a_layer() -> None:
    parts = balanced(
        [LayerDelta(low(2, 0), 1.0), LayerDelta(full(1).scaled(50), 2.0), LayerDelta(Delta.zero(SHAPE), 1.0)], "weights"
    )
    expected = (low(2, 0).norm * full(1).scaled(50).norm) ** 0.5
    assert [part.delta.norm for part in parts] == [pytest.approx(expected), pytest.approx(expected), 0.0]
    assert [part.weight for part in parts] == [1.0, 2.0, 1.0]


def test_balance_evens_out_what_changes_do_to_the_output() -> None:
    """By the outputs themselves, on inputs of which a change sees little in one adapter's."""
    xs = [
        torch.randn(90, SHAPE[1], generator=torch.Generator().manual_seed(s)) * scale for s, scale in ((0, 1), (1, 9))
    ]
    deltas = [low(2, 0), full(1)]
    found = balanced([LayerDelta(d, 1.0, inputs=x.T @ x / len(x)) for d, x in zip(deltas, xs, strict=True)], "output")
    outputs = [float((x @ d.dense().T).square().sum(1).mean()) for d, x in zip(deltas, xs, strict=True)]
    even = [float((x @ p.delta.dense().T).square().sum(1).mean()) for p, x in zip(found, xs, strict=True)]
    assert even == pytest.approx([(outputs[0] * outputs[1]) ** 0.5] * 2, rel=1e-4)
    with pytest.raises(ConfigError, match="needs recorded layer inputs"):
        balanced([LayerDelta(low(2, 0), 1.0), LayerDelta(full(1), 1.0)], "output")


@pytest.mark.parametrize("fusion", RECORDED)
def test_inputs_are_asked_for(fusion: str) -> None:
    with pytest.raises(ConfigError, match="needs recorded layer inputs"):
        FUSIONS[fusion]([LayerDelta(low(2, 0), 1.0), LayerDelta(full(1), 1.0)], 1.0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_factors_stay_factors_where_they_can(fusion: str) -> None:
    parts = [LayerDelta(low(2 + s, s), 1 - 0.5 * s, 0, moment(SHAPE[1], s), moment(SHAPE[1], 9)) for s in (0, 1)]
    assert (FUSIONS[fusion](parts, 1.0).rank <= 5) == (fusion != "ties")


def _parts(deltas: list[Delta]) -> list[LayerDelta]:
    return [
        LayerDelta(delta, 1 - 0.3 * s, s, moment(SHAPE[1], s), moment(SHAPE[1], 1000)) for s, delta in enumerate(deltas)
    ]


ZEROS = {
    "absent": Delta.zero(SHAPE),
    "no gradient": Delta.of_factors(torch.zeros(SHAPE[0], 3), low(3, 7).down),
    "whole": Delta.of_matrix(torch.zeros(SHAPE)),
}
"""How an adapter leaves a layer alone."""
DENSITIES = [(fusion, density) for fusion in FUSIONS for density in (1.0, 0.4) if density == 1 or fusion in THINNED]


@pytest.mark.parametrize("alone", ZEROS)
@pytest.mark.parametrize(("fusion", "density"), DENSITIES)
def test_all_adapters_may_leave_a_layer_alone(fusion: str, alone: str, density: float) -> None:
    found = FUSIONS[fusion](_parts([ZEROS[alone], ZEROS[alone]]), density)
    assert found.shape == SHAPE
    assert not found.dense().any()


@pytest.mark.parametrize("alone", ZEROS)
@pytest.mark.parametrize("changed", [low(2, 0), low(15, 0), full(0)], ids=["2", "15", "full"])
@pytest.mark.parametrize(("fusion", "density"), DENSITIES)
def test_an_adapter_may_leave_a_layer_alone(fusion: str, changed: Delta, alone: str, density: float) -> None:
    """What the others do there stays as it is, in any order; what each gets counts as ever."""
    parts = _parts([changed, ZEROS[alone], ZEROS["absent"]])
    if fusion in RECORDED:
        expected = FUSIONS[fusion](_parts([changed, ZEROS["absent"], ZEROS["absent"]]), density).dense()
        assert expected.any()
    else:
        expected = FUSIONS[fusion](parts[:1], density).dense() / (3 if fusion == "mean" else 1)
    for order in itertools.permutations(parts):
        torch.testing.assert_close(FUSIONS[fusion](order, density).dense(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", [fusion for fusion in FUSIONS if fusion not in RECORDED])
def test_a_layer_that_one_adapter_has(fusion: str) -> None:
    a, b = file_of("lora"), file_of("lora", 1)
    without = replace(
        b,
        layers={path: record for path, record in b.layers.items() if path != "first"},
        tensors={name: tensor for name, tensor in b.tensors.items() if not name.startswith("first.")},
    )
    alone = fused([WeightedAdapter("a", a)], fusion)["first"] / (2 if fusion == "mean" else 1)
    for order in itertools.permutations([WeightedAdapter("a", a), WeightedAdapter("b", without)]):
        torch.testing.assert_close(fused(list(order), fusion)["first"], alone, rtol=1e-5, atol=1e-6)
