"""DoRA's weight decomposition, alone and around LoHa and LoKr."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dreamtune.adapters import METHODS, AdaptedLinear, attach
from dreamtune.adapters.methods.decompose import Decomposable, row_norms
from dreamtune.adapters.methods.dora import DoRAConfig
from tests.adapters.nets import disturb, frozen_net, inputs, single

WAYS = [
    (method, options | more)
    for method, options in (("dora", {}), ("loha", {"weight_decompose": True}), ("lokr", {"weight_decompose": True}))
    for more in ({}, {"by_input": True})
]
decomposed = pytest.mark.parametrize(("method", "options"), WAYS, ids=str)


def paper(adapter: Decomposable, weight: Tensor, norm: Tensor | None = None) -> Tensor:
    """The paper's equation 5 as it stands, (out, in); `norm` of rows, or of columns by input, if it is a constant."""
    changed = weight + adapter.change()
    assert adapter.magnitude is not None
    norms = row_norms(weight.T if adapter.by_input else weight)
    magnitude = adapter.magnitude + (norms - norms.float())
    norm = norms_of(adapter, changed) if norm is None else norm
    return (magnitude / norm).unsqueeze(0 if adapter.by_input else 1) * changed


def norms_of(adapter: Decomposable, matrix: Tensor) -> Tensor:
    return matrix.norm(dim=0 if adapter.by_input else 1)


def pair(method: str, **options: Any) -> tuple[Decomposable, Tensor]:
    adapter, weight = single(method, **options)
    assert isinstance(adapter, Decomposable)
    return adapter, weight


@decomposed
def test_weight_is_the_papers(method: str, options: dict[str, Any]) -> None:
    adapter, weight = pair(method, **options)
    torch.testing.assert_close(weight + adapter.delta_weight(weight), paper(adapter, weight), rtol=1e-12, atol=1e-12)


@decomposed
def test_gradient_is_the_papers_with_the_norm_constant(method: str, options: dict[str, Any]) -> None:
    """By finite differences at a fixed norm, through a layer, for each parameter."""
    adapter, weight = pair(method, **options)
    x = inputs()
    towards = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    adapter.on_weight(weight)
    loss = (adapter.layer_output(x, weight, None, 1.0) * towards).sum()
    norm = norms_of(adapter, weight + adapter.change()).detach()
    parameters = list(adapter.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        step = 1e-6
        for index in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[index] += sign * step
                    values.append((F.linear(x, paper(adapter, weight, norm)) * towards).sum())
                    parameter.view(-1)[index] -= sign * step
            torch.testing.assert_close(
                (values[0] - values[1]) / (2 * step), gradient.reshape(-1)[index], rtol=1e-5, atol=1e-6
            )


@decomposed
@pytest.mark.parametrize("start", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("end", [torch.float32, torch.float64])
def test_change_stays_zero_when_precision_changes(
    method: str, options: dict[str, Any], start: torch.dtype, end: torch.dtype
) -> None:
    layer = nn.Linear(300, 200).requires_grad_(False).to(start)
    net = nn.ModuleDict({"layer": layer})
    attached = attach(net, METHODS[method].config_class(rank=4, **options), "layer").to(end)
    for weight in (layer.weight, layer.weight.double()):
        assert attached.adapters["layer"].delta_weight(weight).count_nonzero() == 0
    x = torch.randn(300, 300, dtype=start)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@decomposed
def test_rows_of_zeros_train(method: str, options: dict[str, Any]) -> None:
    layer = nn.Linear(6, 4).requires_grad_(False)
    nn.init.zeros_(layer.weight)
    net = nn.ModuleDict({"layer": layer})
    attached = attach(net, METHODS[method].config_class(rank=2, **options), "layer").train()
    optimizer = torch.optim.SGD(attached.parameters(), lr=0.1)
    for _ in range(3):
        loss = (layer(inputs(torch.float32)[..., :6]) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in attached.parameters())
    assert layer(inputs(torch.float32)[..., :6]).isfinite().all()


@decomposed
def test_what_learns_nothing_does_not_decay_the_base(method: str, options: dict[str, Any]) -> None:
    net = nn.ModuleDict({"layer": nn.Linear(16, 12, bias=False)}).requires_grad_(False)
    weight = net["layer"].get_parameter("weight").clone()
    with attach(net, METHODS[method].config_class(rank=2, **options), "layer") as attached:
        groups = [
            {"params": parameters, "weight_decay": 0.1 if options.weight_decay else 0.0}
            for options, parameters in attached.parameter_groups().items()
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.1)
        for _ in range(10):
            for parameter in attached.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        (adapter,) = attached.adapters.values()
        assert not adapter.delta_weight(weight).any()


def test_magnitude_of_zero_turns_its_output_off_without_nan() -> None:
    net, x = frozen_net(), inputs().requires_grad_()
    attached = attach(net, DoRAConfig(rank=2), "first").double()
    adapter = disturb(attached.adapters["first"], net.first.weight)
    start = row_norms(net.first.weight).float().double() - row_norms(net.first.weight)
    with torch.no_grad():
        adapter.get_parameter("magnitude")[1] = start[1]
    y = net.first(x)
    torch.testing.assert_close(y[..., 1], net.first.bias[1].expand(2, 4))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.sum(), [x, *attached.parameters()]))


@settings(max_examples=25, deadline=None)
@given(
    out_features=st.integers(1, 24),
    in_features=st.integers(1, 24),
    rank=st.integers(1, 6),
    alpha=st.floats(0.5, 16),
    tokens=st.integers(1, 40),
    strength=st.sampled_from([1.0, 0.4, -1.0]),
    method=st.sampled_from(["lora", "dora", "loha", "lokr"]),
    decompose=st.booleans(),
    bias=st.booleans(),
)
def test_fast_way_is_the_definition_for_any_shape(
    out_features: int,
    in_features: int,
    rank: int,
    alpha: float,
    tokens: int,
    strength: float,
    method: str,
    decompose: bool,
    bias: bool,
) -> None:
    generator = torch.Generator().manual_seed(out_features * 100 + in_features)
    layer = nn.Linear(in_features, out_features, bias=bias).double().requires_grad_(False)
    for tensor in layer.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    options = {"weight_decompose": decompose} if method in ("loha", "lokr") else {}
    config = METHODS[method].config_class(rank=min(rank, out_features, in_features), alpha=alpha, **options)
    net = nn.ModuleDict({"layer": layer})
    attached = attach(net, config, "layer", strength=strength).double()
    adapter = disturb(attached.adapters["layer"], layer.weight)
    assert isinstance(layer, AdaptedLinear)
    x = torch.randn(tokens, in_features, generator=generator, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    plain = F.linear(x, layer.weight + strength * adapter.delta_weight(layer.weight), layer.bias)
    torch.testing.assert_close(y, plain, rtol=1e-9, atol=1e-9)
    wrt = [x, *adapter.parameters()]
    pairs = (torch.autograd.grad(value.square().sum(), wrt) for value in (y, plain))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-6)
