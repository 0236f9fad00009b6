"""Fusions of whole files: mixed methods and ranks, what the result says, what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile
from dreamtune.errors import ConfigError, IncompatibleModelError
from dreamtune.fusion import FUSIONS, Fused, FusionOptions, WeightedAdapter, as_file, common_layers, fuse_layers
from tests.adapters.nets import attached_to, frozen_net
from tests.fusion.test_methods import NET, change, file_of, inputs_of, options


def to_file(
    ingredients: list[WeightedAdapter], fusion: str = "sum", rank: int | None = None, whole: bool = False
) -> Fused:
    weights: dict[str, Tensor] = {}
    for it in ingredients:
        weights |= it.file.weights({"unet": NET})
    layers = fuse_layers(ingredients, options(fusion), weights, inputs=inputs_of(ingredients))
    about = {"base": "b", "token": "", "class_word": "", "training": {}}
    return as_file(layers, common_layers(ingredients), rank, whole=whole, **about)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_file_of_one_adapter_changes_outputs_as_it_does(fusion: str, method: str) -> None:
    file, net = file_of(method), frozen_net(torch.float32)
    fused = to_file([WeightedAdapter("a", file)], fusion)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    outputs = []
    for it in (file, fused.file):
        with it.attach(net):
            outputs.append(net(x))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    assert set(fused.energy.values()) == {1.0}


def test_mixed_methods_and_ranks_add_up() -> None:
    with attached_to(NET, "lora", 3, rank=1) as attached:
        small = AdapterFile.from_attached(attached, base="b", token="s", class_word="dog", training={})
    files = [small, file_of("lokr", 1), file_of("spectral-r", 2), file_of("dora", 4)]
    fused = to_file([WeightedAdapter(str(i), file, 0.5 + i) for i, file in enumerate(files)])
    for path, found in change(fused.file).items():
        expected = sum((0.5 + i) * change(file)[path] for i, file in enumerate(files))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_rank_keeps_the_best_of_that_rank_and_says_how_much() -> None:
    pair = [WeightedAdapter("a", file_of("lora")), WeightedAdapter("b", file_of("lora", 1))]
    whole, cut = to_file(pair), to_file(pair, rank=1)
    assert set(cut.ranks.values()) == {1}
    for path, exact in change(whole.file).items():
        values = torch.linalg.svdvals(exact.double())
        assert cut.energy[path] == pytest.approx(float(values[0] ** 2 / values.square().sum()), abs=1e-5)
        lost = (change(cut.file)[path] - exact).norm()
        torch.testing.assert_close(lost, values[1:].norm().float(), rtol=1e-4, atol=1e-5)


def test_all_of_a_layer_is_kept_in_the_smaller_form() -> None:
    """Matrices where those have fewer numbers than factors, whatever the sizes of layers."""
    dense = [WeightedAdapter("a", file_of("dora")), WeightedAdapter("b", file_of("loha", 1), 0.5)]
    small = [WeightedAdapter("a", file_of("lora"), 0.7)]
    for ingredients, method in ((dense, "full"), (small, "lora")):
        fused = to_file(ingredients, whole=True)
        assert (fused.file.method, set(fused.energy.values())) == (method, {1.0})
        sizes = [record.shape[0] * record.shape[1] for record in fused.file.layers.values()]
        assert sum(it.numel() for it in fused.file.tensors.values()) <= sum(sizes)
        own = [change(it.file) for it in ingredients]
        for path, found in change(fused.file).items():
            expected = torch.stack([it.weight * one[path] for it, one in zip(ingredients, own, strict=True)]).sum(0)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_layers_without_change_have_a_file_too() -> None:
    pair = [WeightedAdapter("a", file_of("lora"), 1.0), WeightedAdapter("b", file_of("lora"), -1.0)]
    assert not any(delta.any() for delta in change(to_file(pair, "ties").file).values())


def test_foreign_files_without_fingerprints_take_part() -> None:
    known = file_of("lora")
    foreign = file_of("lora", 1)
    foreign = replace(foreign, layers={p: replace(r, fingerprint=None) for p, r in foreign.layers.items()})
    fused = to_file([WeightedAdapter("foreign", foreign), WeightedAdapter("known", known)])
    assert {path: record.fingerprint for path, record in fused.file.layers.items()} == {
        path: record.fingerprint for path, record in known.layers.items()
    }


def test_other_bases_are_refused() -> None:
    other = frozen_net(torch.float32)
    other.first.weight.add_(1)
    with attached_to(other, "lora") as attached:
        file = AdapterFile.from_attached(attached, base="c", token="s", class_word="dog", training={})
    message = "a and b were trained on different bases: the weights of layer first"
    with pytest.raises(IncompatibleModelError, match=message):
        to_file([WeightedAdapter("a", file_of("lora")), WeightedAdapter("b", file)])
    half = file_of("lora")
    with attached_to(frozen_net(torch.bfloat16), "lora", 1) as attached:  # the same base in another precision
        to_file(
            [
                WeightedAdapter("a", half),
                WeightedAdapter(
                    "b", AdapterFile.from_attached(attached, base="b", token="s", class_word="dog", training={})
                ),
            ]
        )


def test_missing_weights_are_named() -> None:
    with pytest.raises(ConfigError, match=r"the change of a \(dora\) depends on the base's weights"):
        dict(fuse_layers([WeightedAdapter("a", file_of("dora"))], FusionOptions()))


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"method": "add"}, "method = 'add' must be one of sum, mean, ties"),
        ({"method": "sum", "density": 0.5}, "sum has no density"),
        ({"method": "ties", "density": 0.0}, "more than 0 and at most 1"),
        ({"method": "ties", "density": float("nan")}, "more than 0 and at most 1"),
    ],
)
def test_impossible_options(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FusionOptions(**bad)  # pyright: ignore[reportArgumentType]


def test_all_weights_zero() -> None:
    with pytest.raises(ConfigError, match="all adapters have the weight 0"):
        to_file([WeightedAdapter("a", file_of("lora"), 0.0)])
