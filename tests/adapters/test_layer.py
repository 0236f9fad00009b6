"""What a layer does with its only adapter at one go is what the adapter's weight change says, gradients included."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamtune.adapters import METHODS, AdaptedLinear, Adapter, attach
from tests.adapters.nets import attached_to, config_of, disturb, frozen_net, inputs

ALL = [(method, {}) for method in METHODS] + [
    (method, {name: True})
    for method, kind in METHODS.items()
    for name, value in vars(kind.config_class()).items()
    if value is False
]
"""Every method as it comes, and with each of its switches on."""
every_method = pytest.mark.parametrize(("method", "options"), ALL, ids=str)


def only_layer(method: str, strength: float, bias: bool, **options: Any) -> tuple[AdaptedLinear, Adapter]:
    """A fp64 layer (5, 7) with one adapter as in the middle of a training."""
    net = frozen_net()
    net.first.bias = net.first.bias if bias else None  # pyright: ignore[reportAttributeAccessIssue]
    attached = attach(net, config_of(method, **options), "first", strength=strength).double()
    adapter = disturb(attached.adapters["first"], net.first.weight)
    assert isinstance(net.first, AdaptedLinear)
    return net.first, adapter


def gradients(y: Tensor, wrt: Sequence[Tensor]) -> list[Tensor | None]:
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(y)
    return list(torch.autograd.grad((y * towards).sum(), wrt, retain_graph=True, allow_unused=True))


@every_method
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 4, 7), (7,), (0, 7)], ids=str)
@pytest.mark.parametrize(("strength", "bias"), [(1.0, True), (1.0, False), (-0.6, True)])
def test_one_go_is_base_plus_change(
    method: str, options: dict[str, Any], shape: tuple[int, ...], strength: float, bias: bool
) -> None:
    layer, adapter = only_layer(method, strength, bias, **options)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    y = layer(x)
    plain = F.linear(x, layer.weight + strength * adapter.delta_weight(layer.weight), layer.bias)
    torch.testing.assert_close(y, plain, rtol=1e-11, atol=1e-11)
    wrt = [x, *adapter.parameters()]
    torch.testing.assert_close(gradients(y, wrt), gradients(plain, wrt), rtol=1e-9, atol=1e-9)
    frozen = list(adapter.parameters())
    torch.testing.assert_close(gradients(layer(x.detach()), frozen), gradients(plain, frozen), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y, rtol=1e-11, atol=1e-11)


@every_method
@pytest.mark.parametrize("tokens", [3, 16])
def test_layouts_of_memory_do_not_matter(method: str, options: dict[str, Any], tokens: int) -> None:
    layer, adapter = only_layer(method, 1.0, True, **options)
    wide = torch.randn(2, 14, tokens, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    strided = wide.transpose(1, 2)[..., ::2]
    assert not strided.is_contiguous()
    wrt = list(adapter.parameters())
    results = []
    for x in (strided.detach(), strided.contiguous()):
        x.requires_grad_()
        y = layer(x)
        results.append([y, *gradients(y, [x, *wrt]), torch.autograd.grad(layer(x).sum(), x)[0]])  # an expanded gradient
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


@every_method
def test_gradient_checkpointing_changes_no_bit(method: str, options: dict[str, Any]) -> None:
    net, x = frozen_net(), inputs().requires_grad_()
    attached = attached_to(net, method, **options).train()
    wrt = [x, *attached.parameters()]
    kept, again = (gradients(y, wrt) for y in (net(x), checkpoint(net, x, use_reentrant=False)))
    torch.testing.assert_close(kept, again, rtol=0, atol=0)


@every_method
@pytest.mark.parametrize("tokens", [2, 24])
def test_half_precision_does_not_lose_a_small_change(method: str, options: dict[str, Any], tokens: int) -> None:
    """In bf16 W + ΔW would round most of such a change away."""
    layer = nn.Linear(16, 12).requires_grad_(False).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)).round() + 3)
        layer.bias.zero_()
    net = nn.ModuleDict({"first": layer})
    attached = attach(net, config_of(method, **options), "first")
    adapter = disturb(attached.adapters["first"], layer.weight)
    x = torch.zeros(tokens, 16, dtype=torch.bfloat16)
    x[:, 0], x[:, 1] = 1, -1
    attached.strength = 1e-3
    change = 1e-3 * F.linear(x.float(), adapter.delta_weight(layer.weight))
    same = layer.weight[:, 0] == layer.weight[:, 1]  # where the base's part of the output is exactly zero
    assert same.sum() >= 2
    with torch.no_grad():
        y = layer(x).float()
    torch.testing.assert_close(y[:, same], change[:, same], rtol=0.03, atol=0.03 * float(change.detach().abs().max()))


def test_layer_that_is_trained_itself_gets_its_gradient() -> None:
    net, x = frozen_net(), inputs()
    with attached_to(net, "lora"):
        net.first.weight.requires_grad_()
        net(x).square().sum().backward()
    assert net.first.weight.grad is not None


@every_method
def test_adapter_follows_a_new_weight(method: str, options: dict[str, Any]) -> None:
    """Nothing of the old weight is remembered when another is loaded into the layer."""
    layer, adapter = only_layer(method, 1.0, True, **options)
    state = {"weight": 2 * layer.weight + 0.1, "bias": layer.bias}
    for assign in (False, True):
        layer.load_state_dict(state, assign=assign)
        layer.requires_grad_(False)
        x = inputs()
        plain = F.linear(x, layer.weight + adapter.delta_weight(layer.weight), layer.bias)
        torch.testing.assert_close(layer(x), plain, rtol=1e-11, atol=1e-11)
        state = {name: 0.5 * tensor for name, tensor in state.items()}


@every_method
@pytest.mark.parametrize("assign", [False, True])
def test_merged_adapter_follows_a_new_weight(assign: bool, method: str, options: dict[str, Any]) -> None:
    """It is merged into what is loaded, which comes back when it is taken out; the caller's tensor stays as it is."""
    layer, adapter = only_layer(method, 1.0, True, **options)
    (slot,) = layer._slots
    slot.merged = True
    layer.refresh()
    loaded = 2 * layer.base_weight + 0.1
    state = {"weight": loaded.clone(), "bias": layer.bias}
    layer.load_state_dict(state, assign=assign)
    layer.requires_grad_(False)
    assert torch.equal(state["weight"], loaded) and torch.equal(layer.base_weight, loaded)
    torch.testing.assert_close(layer.weight, loaded + adapter.delta_weight(loaded), rtol=1e-11, atol=1e-11)
    slot.merged = False
    layer.refresh()
    assert torch.equal(layer.weight, loaded)


@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")  # the compiler does it
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("tokens", "autocast"), [(3, False), (24, True)])
def test_compiler_takes_it_whole(method: str, tokens: int, autocast: bool) -> None:
    """No graph breaks, and the same outputs and gradients."""
    torch.compiler.reset()
    net = frozen_net(torch.float32)
    attached = attached_to(net, method).train()
    x = torch.randn(tokens, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
    wrt = [x, *attached.parameters()]
    results = []
    for run in (net, torch.compile(net, backend="eager", fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = run(x)
        results.append([y, *gradients(y, wrt)])
    torch.testing.assert_close(*results)
