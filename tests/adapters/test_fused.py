"""Layers that get one tensor under autocast share its copy, and nobody can tell from the results."""

from operator import attrgetter

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamtune.adapters import attach
from dreamtune.adapters.layer import pristine_weight
from dreamtune.adapters.linear_function import exact
from tests.adapters.nets import config_of, disturb


class Attention(nn.Module):
    """Three layers on one input, as queries, keys and values are made."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x) + 2 * self.k(x) + 3 * self.v(x)


@pytest.fixture
def net() -> Attention:
    torch.manual_seed(0)
    net = Attention().requires_grad_(False).to(torch.bfloat16)
    for name, adapter in attach(net, config_of("lora"), "[qkv]").adapters.items():
        disturb(adapter, net.get_submodule(name).weight)  # pyright: ignore[reportArgumentType]
    return net


def run(net: Attention, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(x)


def test_one_copy_is_kept_for_all_three(net: Attention) -> None:
    kept: dict[int, Tensor] = {}
    x = torch.randn(2, 6, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        run(net, x)
    assert len([t for t in kept.values() if t.numel() == x.numel()]) == 1


def test_gradients_are_those_of_separate_inputs(net: Attention) -> None:
    x = torch.randn(2, 6, 8, requires_grad=True)
    (shared,) = torch.autograd.grad(run(net, x).float().square().sum(), x)
    with torch.autocast("cpu", torch.bfloat16):  # a copy each
        apart = net.q(x.clone()) + 2 * net.k(x.clone()) + 3 * net.v(x.clone())
    (own,) = torch.autograd.grad(apart.float().square().sum(), x)
    torch.testing.assert_close(shared, own, rtol=0.02, atol=0.02 * float(own.abs().max()))


@pytest.mark.parametrize("graph", [False, True])
def test_a_change_in_place_is_seen(net: Attention, graph: bool) -> None:
    x = torch.randn(2, 6, 8)
    with torch.set_grad_enabled(graph):
        run(net, x)
        x.mul_(2)
        assert torch.equal(run(net, x), run(net, x.clone()))


def test_what_was_made_without_a_graph_is_not_used_with_one(net: Attention) -> None:
    x = torch.randn(2, 6, 8)
    run(net, x)
    with torch.no_grad():
        run(net, x)
    with torch.inference_mode():
        run(net, x)
    (grad,) = torch.autograd.grad(run(net, x.requires_grad_()).float().sum(), x)
    assert grad.abs().sum() > 0


def test_tensors_of_inference_mode_are_taken(net: Attention) -> None:
    with torch.inference_mode():
        x = torch.randn(2, 6, 8)
        assert torch.equal(run(net, x), run(net, x.clone()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(net: Attention, reentrant: bool) -> None:
    x = torch.randn(2, 6, 8, requires_grad=True)
    (plain,) = torch.autograd.grad(run(net, x).float().square().sum(), x)
    y = checkpoint(lambda x: run(net, x), x, use_reentrant=reentrant)
    assert isinstance(y, Tensor)
    y.float().square().sum().backward()
    assert x.grad is not None and torch.equal(x.grad, plain)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_gradient_of_a_magnitude_is_finite_where_products_are_beyond_fp16(kind: str) -> None:
    """As in PEFT: gradients up to 9e3, as loss scaling makes them, times outputs of 10 or so."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(8, 6) if kind == "linear" else nn.Conv2d(2, 6, 2)
    with torch.no_grad():
        layer.weight.copy_(8 * torch.randn(layer.weight.shape, generator=generator))
    x = 0.5 * torch.randn((3, 5, 8) if kind == "linear" else (2, 2, 4, 4), generator=generator)
    towards = 9e3 * torch.randn(layer(x).shape, generator=generator).sign()
    layer.requires_grad_(False).half()
    attached = attach(nn.ModuleDict({"layer": layer}), config_of("dora"), "layer")
    adapter = disturb(attached.adapters["layer"], pristine_weight(layer))
    y = layer(x.half())
    assert not (y * towards.half()).isfinite().all()
    found = torch.autograd.grad(y, adapter.get_parameter("magnitude"), towards.half())[0]
    nn.ModuleList([layer, attached]).double()
    true = torch.autograd.grad(layer(x.double()), adapter.get_parameter("magnitude"), towards.double())[0]
    torch.testing.assert_close(found.double(), true, rtol=0.02, atol=0.02 * float(true.abs().max()))


@pytest.mark.parametrize("name", ["backends", "backends.cuda.matmul", "backends.mkldnn.matmul"])
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_settings_of_precision_for_each_backend_are_understood(name: str, precision: str) -> None:
    """With them torch.get_float32_matmul_precision() raises."""
    layer, x = nn.Linear(4, 3).requires_grad_(False), torch.randn(2, 4)
    attached = attach(nn.ModuleDict({"layer": layer}), config_of("lokr"), "layer")
    disturb(attached.adapters["layer"], layer.weight)
    expected = layer(x)
    holder = attrgetter(name)(torch)
    before = holder.fp32_precision
    try:
        holder.fp32_precision = precision
        assert exact(torch.float32) == (precision == "ieee")
        torch.testing.assert_close(layer(x), expected, rtol=1e-2, atol=1e-2)
    finally:
        holder.fp32_precision = before
    assert exact(torch.float32)
