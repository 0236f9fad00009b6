"""Convolutions: layouts, options and precisions that they have, and kernels of 1x1 that are linear layers elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from dreamtune.adapters import METHODS, AdaptedConv2d, Adapter, AdapterFile, AttachedAdapter, attach, container
from dreamtune.adapters.conv_function import exact_conv
from dreamtune.adapters.layer import pristine_weight
from dreamtune.errors import AdapterFileError, IncompatibleModelError
from tests.adapters.nets import attached_to, config_of, disturb, frozen_conv_net, pictures
from tests.adapters.test_layer import every_method, gradients


def adapted(
    method: str, layer: nn.Conv2d | nn.Linear, strength: float = 1.0, **options: Any
) -> tuple[AttachedAdapter, Adapter]:
    """The layer as the only one of a net, with an adapter as in the middle of a training."""
    layer.requires_grad_(False)
    attached = attach(nn.ModuleDict({"layer": layer}), config_of(method, **options), "layer", strength=strength)
    if layer.weight.dtype == torch.float64:
        attached.double()
    return attached, disturb(attached.adapters["layer"], pristine_weight(layer))


def random_conv(*args: Any, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(*args, **options).to(dtype)


@every_method
@pytest.mark.parametrize(("strength", "bias"), [(1.0, True), (-0.6, False)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_one_go_is_base_plus_change(
    method: str, options: dict[str, Any], strength: float, bias: bool, channels_last: bool
) -> None:
    layer = random_conv(4, 6, 3, stride=2, padding=1, bias=bias)
    attached, adapter = adapted(method, layer, strength, **options)
    x = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if channels_last:
        layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    weight = pristine_weight(layer)
    plain = F.conv2d(x, (weight + strength * adapter.delta_weight(weight)).view(6, 4, 3, 3), layer.bias, 2, 1)
    wrt = [x, *attached.parameters()]
    torch.testing.assert_close(layer(x), plain, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradients(layer(x), wrt), gradients(plain, wrt), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(layer(x[0]), plain[0], rtol=1e-11, atol=1e-11)  # without a batch


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same"])
def test_paddings(padding_mode: str, padding: int | str) -> None:
    layer = random_conv(3, 4, 3, padding=padding, padding_mode=padding_mode)
    other = random_conv(3, 4, 3, padding=padding, padding_mode=padding_mode)
    for method in ("lora", "dora"):
        attached, adapter = adapted(method, layer)
        with torch.no_grad():
            weight = pristine_weight(layer)
            other.weight.copy_((weight + adapter.delta_weight(weight)).view(4, 3, 3, 3))
        x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
        torch.testing.assert_close(layer(x), other(x))
        attached.detach()


@every_method
def test_gradient_checkpointing_changes_no_bit(method: str, options: dict[str, Any]) -> None:
    net, x = frozen_conv_net(), pictures().requires_grad_()
    attached = attached_to(net, method, **options).train()
    wrt = [x, *attached.parameters()]
    kept, again = (gradients(y, wrt) for y in (net(x), checkpoint(net, x, use_reentrant=False)))
    torch.testing.assert_close(kept, again, rtol=0, atol=0)


@every_method
def test_half_precision_does_not_lose_a_small_change(method: str, options: dict[str, Any]) -> None:
    """In bf16 W + ΔW would round most of such a change away."""
    layer = nn.Conv2d(4, 12, 2).to(torch.bfloat16)
    with torch.no_grad():
        weight = torch.randn(12, 4, 2, 2, generator=torch.Generator().manual_seed(0)).round() + 3
        weight[:6, 1] = weight[:6, 0]
        layer.weight.copy_(weight)
        assert layer.bias is not None
        layer.bias.zero_()
    attached, adapter = adapted(method, layer)
    x = torch.zeros(1, 4, 5, 5, dtype=torch.bfloat16)
    x[:, 0], x[:, 1] = 1, -1  # the base's part of the first six outputs is exactly zero
    attached.strength = 1e-3
    matrix = 1e-3 * adapter.delta_weight(pristine_weight(layer)).detach()
    change = F.conv2d(x.float(), matrix.view(12, 4, 2, 2))[:, :6]
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[:, :6].float(), change, rtol=0.03, atol=0.03 * float(change.abs().max()))


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")  # the compiler does it
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("autocast", [False, True])
def test_compiler_takes_it_whole(method: str, autocast: bool) -> None:
    torch.compiler.reset()
    net = frozen_conv_net(torch.float32)
    attached = attached_to(net, method).train()
    x = pictures(torch.float32).requires_grad_()
    wrt = [x, *attached.parameters()]
    results = []
    for run in (net, torch.compile(net, backend="eager", fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = run(x)
        results.append([y, *gradients(y, wrt)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("method", METHODS)
def test_merging_keeps_the_layout_and_unmerging_the_bits(method: str) -> None:
    layer = random_conv(4, 6, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    before = layer.weight.clone()
    attached, _ = adapted(method, layer)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    live = layer(x)
    attached.merge()
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), live)
    attached.unmerge()
    assert torch.equal(layer.weight, before)


def test_layer_that_is_trained_itself_gets_its_gradient() -> None:
    net = frozen_conv_net()
    with attached_to(net, "lora"):
        net.first.weight.requires_grad_()
        net(pictures()).square().sum().backward()
    assert net.first.weight.grad is not None


@every_method
@pytest.mark.parametrize("merged", [False, True])
def test_adapter_follows_a_new_weight(method: str, options: dict[str, Any], merged: bool) -> None:
    layer = random_conv(4, 6, 3)
    attached, adapter = adapted(method, layer, **options)
    if merged:
        attached.merge()
    assert isinstance(layer, AdaptedConv2d)
    state = {"weight": 2 * layer.base_weight.view(6, 4, 3, 3) + 0.1, "bias": torch.ones(6, dtype=torch.float64)}
    layer.load_state_dict(state)
    x, weight = torch.randn(2, 4, 7, 6, dtype=torch.float64), state["weight"].flatten(1)
    plain = F.conv2d(x, (weight + adapter.delta_weight(weight)).view(6, 4, 3, 3), state["bias"])
    torch.testing.assert_close(layer(x), plain, rtol=1e-11, atol=1e-11)
    attached.detach()
    assert torch.equal(layer.weight, state["weight"])


def file_of(attached: AttachedAdapter) -> AdapterFile:
    return AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})


def as_linear(conv: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(conv.in_channels, conv.out_channels).to(conv.weight.dtype)
    linear.load_state_dict({"weight": conv.weight.flatten(1), "bias": conv.bias})
    return linear.requires_grad_(False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_kernel_of_1x1_is_a_linear_layer(method: str, recorded: bool, tmp_path: Path) -> None:
    """Adapters go either way, with the base's weights compared; also those of files that do not tell of a kernel."""
    conv = random_conv(6, 8, 1, dtype=torch.float32)
    linear = as_linear(conv)
    x = torch.randn(2, 6, 3, 4)
    outputs = []
    for here, there in ((conv, linear), (linear, conv)):
        attached, _ = adapted(method, here)
        file = file_of(attached)
        attached.detach()
        assert file.layers["layer"].kernel == ((1, 1) if here is conv else None)
        if not recorded:
            record = file.layers["layer"]
            record = type(record)(record.shape, record.fingerprint, record.options)
            file = AdapterFile(**{**vars(file), "layers": {"layer": record}})
        file.save(tmp_path / "a.safetensors")
        for layer in (here, there):
            with AdapterFile.load(tmp_path / "a.safetensors").attach(nn.ModuleDict({"layer": layer})):
                y = layer(x) if layer is conv else layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            outputs.append(y)
    for y in outputs[1:]:  # the same seed, shape and weight: one and the same adapter
        torch.testing.assert_close(y, outputs[0])
    assert not torch.allclose(outputs[0], conv(x), atol=0.1)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.Linear(18, 4), r"layer is 4x18, the adapter's 4x2 with a kernel of 3x3"),
        (nn.Conv2d(2, 4, (9, 1)), r"layer is 4x2 with a kernel of 9x1, the adapter's 4x2 with a kernel of 3x3"),
        (nn.Conv2d(18, 4, 1), r"layer is 4x18, the adapter's 4x2 with a kernel of 3x3"),
        (nn.Conv2d(2, 5, 3), r"layer is 5x2 with a kernel of 3x3, the adapter's 4x2"),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("any_base", [True, False])
def test_another_kernel_is_another_base(layer: nn.Module, named: str, any_base: bool) -> None:
    attached, _ = adapted("lora", random_conv(2, 4, 3, dtype=torch.float32))
    file = file_of(attached)
    net = nn.ModuleDict({"layer": layer})
    with pytest.raises(IncompatibleModelError, match=named):
        file.attach(net, any_base=any_base)
    with pytest.raises(IncompatibleModelError, match=named):
        file.weights({"unet": net})
    assert type(layer) in (nn.Linear, nn.Conv2d)


def test_a_linear_adapter_does_not_go_onto_a_kernel() -> None:
    attached, _ = adapted("lora", nn.Linear(18, 4))
    with pytest.raises(IncompatibleModelError, match="is 4x2 with a kernel of 3x3, the adapter's 4x18"):
        file_of(attached).attach(nn.ModuleDict({"layer": nn.Conv2d(2, 4, 3)}), any_base=True)


@pytest.mark.parametrize("method", METHODS)
def test_file_knows_the_weight_and_the_spectrum(method: str, tmp_path: Path) -> None:
    net = frozen_conv_net(torch.float32)
    file = file_of(attached_to(net, method))
    file.save(tmp_path / "a.safetensors")
    file = AdapterFile.load(tmp_path / "a.safetensors")
    assert {path: record.kernel for path, record in file.layers.items()} == {"first": (3, 2), "block.second": (1, 1)}
    weights = file.weights({"unet": net})
    assert {path: tuple(weight.shape) for path, weight in weights.items()} == {"first": (5, 12), "block.second": (6, 5)}
    spectra = file.spectra(weights)
    for path, adapter in file.adapters().items():
        true = torch.linalg.svdvals(adapter.delta_weight(weights[path]).double())
        found = spectra[path].values.double()
        torch.testing.assert_close(found, true[: len(found)], rtol=1e-4, atol=1e-5)


def test_lokr_of_earlier_versions_is_read(tmp_path: Path) -> None:
    """Files of before W₁ could have a size of its own do not tell it."""
    path = tmp_path / "a.safetensors"
    file = file_of(adapted("lokr", nn.Linear(18, 4))[0])
    file.save(path)
    tensors, header = container.read(path)
    config = json.loads(header["dreamtune.config"])
    config = {name: value for name, value in config.items() if name not in ("w1_rows", "w1_columns")}
    save_file(dict(tensors), path, {**header, "dreamtune.config": json.dumps(config)})
    assert AdapterFile.load(path).config == file.config
    assert load_file(path).keys() == file.tensors.keys()


@pytest.mark.parametrize("sides", [{"w1_rows": 3, "w1_columns": 9}, {"w1_rows": 6}, {"w1_columns": 2}])
def test_lokr_takes_any_size_of_w1(sides: dict[str, int]) -> None:
    _, adapter = adapted("lokr", nn.Linear(18, 12), **sides)
    w1 = adapter.get_parameter("w1")
    assert {
        f"w1_{side}": size for side, size in zip(("rows", "columns"), w1.shape, strict=True)
    }.items() >= sides.items()
    own = dict(adapter.named_parameters())
    whole = adapter.config.scale * torch.kron(w1, own["w2"] if "w2" in own else own["up2"] @ own["down2"])
    torch.testing.assert_close(adapter.delta_weight(torch.empty(12, 18)), whole)


def test_lokr_refuses_a_w1_that_does_not_divide_the_layer() -> None:
    attached, _ = adapted("lokr", nn.Linear(18, 12), w1_rows=3)
    header = file_of(attached).to_header()
    broken = {**header, "dreamtune.config": header["dreamtune.config"].replace('"w1_rows":3', '"w1_rows":5')}
    with pytest.raises(AdapterFileError, match="w1_rows = 5 does not divide a layer of 12x18"):
        AdapterFile.from_content(file_of(attached).tensors, broken)


def test_tf32_convolutions_are_not_exact() -> None:
    """On CUDA they are torch's default; W + ΔW in one would then lose a small ΔW."""
    conv: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "tf32"
        assert not exact_conv(torch.float32, "cuda")
        assert exact_conv(torch.float64, "cuda") and not exact_conv(torch.bfloat16, "cuda")
        conv.fp32_precision = "ieee"
        assert exact_conv(torch.float32, "cuda")
    finally:
        conv.fp32_precision = before
    assert exact_conv(torch.float32, "cpu")
