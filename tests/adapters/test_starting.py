"""New adapters begin at the change of a file: exactly where they have its form or its rank, else as near as can be."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import METHODS, Adapter, AdapterFile, attach
from dreamtune.adapters.starting import start_at
from dreamtune.errors import ConfigError
from tests.adapters.nets import LAYERS, TARGETS, config_of, disturb, frozen_net

ABLE = ("lora", "lora-dash", "dora", "loha", "full")
PAIRS = [(own, other) for own in ABLE for other in METHODS if own != other]


def file_of(method: str, **options: object) -> tuple[AdapterFile, dict[str, Tensor]]:
    """An adapter in the middle of its training, and the weights of its layers."""
    net = frozen_net(torch.float32)
    with attach(net, config_of(method, **options), TARGETS) as on:
        weights = {path: layer.base_weight.clone() for path, layer, _ in on.layers()}
        for _, layer, adapter in on.layers():
            disturb(adapter, layer.base_weight)
        return AdapterFile.from_attached(on, base="x", token="sks", class_word="dog", training={}), weights


def fresh(method: str, targets: str = TARGETS, **options: object) -> dict[str, Adapter]:
    with attach(frozen_net(torch.float32), config_of(method, **options), targets, seed=3) as on:
        return on.adapters


def changes(adapters: Mapping[str, Adapter], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {path: adapter.delta_weight(weights[path]).detach() for path, adapter in adapters.items()}


@pytest.mark.parametrize("method", METHODS)
def test_at_one_of_its_own_form_it_begins_bit_for_bit(method: str) -> None:
    file, weights = file_of(method)
    own = fresh(method, dropout=0.5)
    start = start_at(own, file, weights)
    assert (start.energy, start.layers, start.left_out) == (1.0, 2, ())
    for path, other in file.adapters().items():
        for name, tensor in other.state_dict().items():
            assert torch.equal(own[path].state_dict()[name], tensor), name


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("spectral")])
def test_of_another_scale_it_makes_the_same_change(method: str) -> None:
    file, weights = file_of(method)
    own = fresh(method, alpha=0.7)
    assert start_at(own, file, weights).energy == 1
    expected = changes(file.adapters(), weights)
    for path, change in changes(own, weights).items():
        torch.testing.assert_close(change, expected[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "other"), PAIRS)
def test_at_any_other_it_begins_exactly_with_enough_rank(method: str, other: str) -> None:
    file, weights = file_of(other)
    own = fresh(method, rank=5, alpha=2.0)  # what the layers can have
    start = start_at(own, file, weights)
    assert start.energy == pytest.approx(1, abs=1e-9)
    expected = changes(file.adapters(), weights)
    for path, change in changes(own, weights).items():
        assert expected[path].abs().max() > 0.01
        torch.testing.assert_close(change, expected[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora", "loha"])
def test_with_less_rank_it_keeps_what_it_says_and_no_less_than_can_be(method: str) -> None:
    file, weights = file_of("full")
    own = fresh(method, rank=2, alpha=2.0)
    start = start_at(own, file, weights)
    kept = total = best = 0.0
    for path, change in changes(own, weights).items():
        whole = changes(file.adapters(), weights)[path].double()
        squares = torch.linalg.svdvals(whole).square()
        total, best = total + float(squares.sum()), best + float(squares[:2].sum())
        kept += float(squares.sum() - (whole - change.double()).square().sum())
    assert start.energy == pytest.approx(kept / total, rel=1e-4)
    assert start.energy == pytest.approx(best / total, rel=1e-4)
    assert start.energy < 0.99
    assert start.rank == 5
    assert start.least[0] in LAYERS
    assert start.least[1] <= start.energy


@pytest.mark.parametrize("method", ["lora", "dora", "loha"])
def test_rank_beyond_the_files_can_be_trained(method: str) -> None:
    """No part of the product is at a saddle, where no gradient ever comes."""
    file, weights = file_of("lora")  # of rank 2
    own = fresh(method, rank=4, alpha=2.0)
    start_at(own, file, weights)
    for path, adapter in own.items():
        adapter.delta_weight(weights[path]).square().sum().add(adapter.delta_weight(weights[path]).sum()).backward()
        gradient = dict(adapter.named_parameters())["up1" if method == "loha" else "up"].grad
        assert gradient is not None
        assert bool((gradient.abs().amax(0) > 0).all())


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ABLE])
def test_others_refuse_with_one_line(method: str) -> None:
    file, weights = file_of("lora")
    with pytest.raises(ConfigError, match=f"{method} cannot start from lora.*: train lora, or one of"):
        start_at(fresh(method), file, weights)
    file, weights = file_of(method)
    options: dict[str, object] = {"train_singular_values": True} if "spectral" in method else {}
    with pytest.raises(ConfigError, match=f"{method} can only start from {method} with the same options: .*rank 2"):
        start_at(fresh(method, TARGETS, rank=1, **options), file, weights)


def test_layers_that_are_not_trained_are_counted() -> None:
    file, weights = file_of("lora")
    start = start_at(fresh("lora", "first"), file, weights)
    squares = {
        path: float(change.double().square().sum()) for path, change in changes(file.adapters(), weights).items()
    }
    outside = squares["block.second"] / sum(squares.values())
    assert start.left_out == ("block.second",)
    assert start.energy_left_out == pytest.approx(outside, rel=1e-6)
    assert start.energy == pytest.approx(1 - outside, rel=1e-6)
    with pytest.raises(ConfigError, match="changes none of the trained layers"):
        start_at(fresh("lora", "last"), file, weights)


def test_layers_of_other_ranks() -> None:
    file, weights = file_of("lora")
    ranked = replace(config_of("lora"), rank=3)
    with attach(frozen_net(torch.float32), config_of("lora"), TARGETS, ranks={"first": 3}) as on:
        assert on.adapters["first"].config.rank == ranked.rank
        start_at(on.adapters, file, weights)
        found = changes(on.adapters, weights)
    expected = changes(file.adapters(), weights)
    assert all(torch.allclose(found[path], expected[path], atol=1e-6) for path in LAYERS)
