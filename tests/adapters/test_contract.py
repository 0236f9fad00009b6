"""What every method must do. The tests run over METHODS itself: a new method is covered without a change here."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from torch.utils.checkpoint import checkpoint

from dreamtune.adapters import METHODS, AdaptedLayer, Adapter, AdapterFile, AttachedAdapter, attach
from dreamtune.adapters.layer import pristine_weight
from dreamtune.errors import ConfigError
from tests.adapters.nets import (
    LAYERS,
    TARGETS,
    ConvNet,
    Net,
    attached_to,
    config_of,
    disturb,
    frozen_conv_net,
    frozen_net,
    inputs,
    pictures,
    single,
)


class Kind(ABC):
    """A kind of layers: a small network of them, its inputs, and what a matrix does to them in its first layer."""

    @abstractmethod
    def net(self, dtype: torch.dtype = torch.float64) -> Net | ConvNet: ...

    @abstractmethod
    def inputs(self, dtype: torch.dtype = torch.float64) -> Tensor: ...

    @abstractmethod
    def by(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Of the first layer, without its bias."""

    @abstractmethod
    def delta_output(self, adapter: Adapter, x: Tensor, weight: Tensor) -> Tensor: ...

    def variants(self) -> tuple[Tensor, ...]:
        """Inputs of other shapes and layouts."""
        x = self.inputs()
        return x, x[:, :1], x.transpose(0, 1), x[:0]


class Linears(Kind):
    def net(self, dtype: torch.dtype = torch.float64) -> Net:
        return frozen_net(dtype)

    def inputs(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return inputs(dtype)

    def by(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(x, matrix)

    def delta_output(self, adapter: Adapter, x: Tensor, weight: Tensor) -> Tensor:
        return adapter.delta_output(x, weight)


class Convolutions(Kind):
    def net(self, dtype: torch.dtype = torch.float64) -> ConvNet:
        return frozen_conv_net(dtype)

    def inputs(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return pictures(dtype)

    def by(self, x: Tensor, matrix: Tensor) -> Tensor:
        """By its definition: the matrix acts on patches, channel by channel, each row by row."""
        x = F.pad(x, (1, 1, 2, 2), mode="circular")
        patches = F.unfold(x, (3, 2), dilation=(2, 1), stride=(1, 2))
        return (matrix @ patches).unflatten(2, (x.shape[2] - 4, -1))

    def delta_output(self, adapter: Adapter, x: Tensor, weight: Tensor) -> Tensor:
        layer = self.net().first
        return adapter.delta_convolved(x, weight.view(layer.weight.shape), layer._conv_forward)

    def variants(self) -> tuple[Tensor, ...]:
        x = self.inputs()
        return x, x[:1], x.to(memory_format=torch.channels_last), x.transpose(2, 3), x[:0]


pytestmark = [
    pytest.mark.parametrize("method", METHODS),
    pytest.mark.parametrize("kind", [Linears(), Convolutions()], ids=lambda kind: type(kind).__name__),
]


def gradients(attached: AttachedAdapter, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(attached.parameters())))


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_change_is_exactly_zero_at_first(method: str, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    before = net(x)
    attached = attach(net, config_of(method), TARGETS).double()
    for _, layer, adapter in attached.layers():
        assert adapter.delta_weight(layer.base_weight).count_nonzero() == 0
    assert torch.equal(net(x), before)


def test_output_follows_from_the_weight(method: str, kind: Kind) -> None:
    adapter, weight = single(method, kind.net())
    for x in kind.variants():
        expected = kind.by(x, adapter.delta_weight(weight))
        torch.testing.assert_close(kind.delta_output(adapter, x, weight), expected, rtol=1e-11, atol=1e-11)
    assert adapter.delta_weight(weight).abs().max() > 0.01


def test_both_ways_have_the_same_gradients(method: str, kind: Kind) -> None:
    adapter, weight = single(method, kind.net())
    x = kind.inputs().requires_grad_()
    fast, plain = kind.delta_output(adapter, x, weight), kind.by(x, adapter.delta_weight(weight))
    towards = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wrt = [x, *adapter.parameters()]
    fast, plain = (torch.autograd.grad((y * towards).sum(), wrt) for y in (fast, plain))
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_finite_differences(method: str, kind: Kind) -> None:
    adapter, weight = single(method, kind.net())
    names = [f"adapter.{name}" for name, _ in adapter.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(Call(kind, adapter, weight), dict(zip(names, values, strict=True)), x)

    values = (kind.inputs().requires_grad_(), *adapter.parameters())
    if METHODS[method].partial_gradient:  # the method's own tests compare with the paper's gradient
        with pytest.raises(GradcheckError):
            torch.autograd.gradcheck(run, values, fast_mode=True)
    else:
        assert torch.autograd.gradcheck(run, values, fast_mode=True)  # along a random direction: not number by number


class Call(nn.Module):
    """delta_output as a forward method, which functional_call needs."""

    def __init__(self, kind: Kind, adapter: Adapter, weight: Tensor) -> None:
        super().__init__()
        self.kind, self.adapter, self.weight = kind, adapter, weight

    def forward(self, x: Tensor) -> Tensor:
        return self.kind.delta_output(self.adapter, x, self.weight)


def test_factors_multiply_to_the_change(method: str, kind: Kind) -> None:
    adapter, weight = single(method, kind.net())
    factors = adapter.low_rank(weight.to("meta"))
    if factors is None:
        assert adapter.low_rank(weight) is None
        return
    up, down = factors
    assert up.shape[1] == down.shape[0]
    torch.testing.assert_close(up @ down, adapter.delta_weight(weight), rtol=1e-11, atol=1e-11)


def test_a_decomposition_is_that_of_the_change(method: str, kind: Kind) -> None:
    adapter, weight = single(method, kind.net())
    svd = adapter.decomposition(weight.to("meta"))
    if svd is None:
        assert adapter.decomposition(weight) is None
        return
    assert svd.u.dtype == svd.s.dtype == svd.v.dtype == torch.float64
    torch.testing.assert_close((svd.u * svd.s) @ svd.v.T, adapter.delta_weight(weight), rtol=1e-11, atol=1e-11)
    for vectors in (svd.u, svd.v):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(svd.s), dtype=torch.float64))
    assert (svd.s >= 0).all()
    assert (svd.s.diff() <= 0).all()


def test_merged_is_live_and_unmerged_is_bitwise_pristine(method: str, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    attached = attached_to(net, method)
    live = net(x)
    attached.merge()
    assert not torch.equal(net.first.weight, kind.net().first.weight)
    torch.testing.assert_close(net(x), live, rtol=1e-10, atol=1e-10)
    attached.strength = -0.5
    merged = net(x)
    attached.unmerge()
    assert same_bits(net, kind.net())
    torch.testing.assert_close(net(x), merged, rtol=1e-10, atol=1e-10)


def test_detaching_leaves_no_trace(method: str, kind: Kind) -> None:
    net = kind.net()
    attached_to(net, method).detach()
    with attached_to(net, method) as attached:
        attached.merge()
    attached.detach()
    assert not attached.attached
    assert same_bits(net, kind.net())
    assert type(net.first) is type(kind.net().first)
    assert vars(net.first).keys() == vars(kind.net().first).keys()


def test_model_keeps_its_own_state(method: str, kind: Kind) -> None:
    net = kind.net()
    with attached_to(net, method):
        assert same_bits(net, kind.net())
        assert len(list(net.parameters())) == len(list(kind.net().parameters()))


def test_strength_is_a_factor_and_zero_is_the_base(method: str, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    base = net.first(x)
    attached = attached_to(net, method)
    whole = net.first(x) - base
    for strength in (0.3, -2.0):
        attached.strength = strength
        torch.testing.assert_close(net.first(x) - base, strength * whole, rtol=1e-10, atol=1e-10)
    attached.strength = 0
    assert torch.equal(net.first(x), base)
    attached.merge()
    assert same_bits(net, kind.net())


@pytest.mark.parametrize("other", ["lora", "dora", "full"])  # factors, a gain on the whole weight, and no factors
@pytest.mark.parametrize("merged", [False, True])
def test_two_adapters_add_up_in_either_order(method: str, other: str, merged: bool, kind: Kind) -> None:
    x, weights, outputs = kind.inputs(), [], []
    for order in ((0, 1), (1, 0)):
        net = kind.net()
        base, pair = net.first(x), ((method, 0), (other, 1))
        attached = [attached_to(net, *pair[index]) for index in order]
        changes = [adapter.adapters["first"].delta_weight(pristine_weight(kind.net().first)) for adapter in attached]
        for adapter in attached if merged else ():
            adapter.merge()
        torch.testing.assert_close(net.first(x), base + kind.by(x, sum(changes, torch.zeros(()))))
        outputs.append(net(x))
        weights.append(net.first.weight.clone())
        attached[0].detach()
        torch.testing.assert_close(net.first(x), base + kind.by(x, changes[1]))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(weights[0], weights[1])


def test_only_the_adapter_learns(method: str, kind: Kind) -> None:
    net, x = kind.net(torch.float32), kind.inputs(torch.float32)
    with attached_to(other := kind.net(torch.float32), method, seed=3):
        goal = other(x).detach()
    attached = attach(net, config_of(method), TARGETS)
    optimizer = torch.optim.AdamW(attached.parameters(), lr=0.05)
    attached.train()
    values = []
    for step in range(60):
        attached.on_step(step)
        loss = (net(x) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.9 * values[0]
    assert same_bits(net, kind.net(torch.float32))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_same_seed_same_start_whatever_else_is_adapted(method: str, kind: Kind) -> None:
    def start(targets: str, seed: int) -> list[Tensor]:
        with attach(kind.net(), config_of(method), targets, seed) as attached:
            return list(attached.adapters["block.second"].state_dict().values())

    before = torch.get_rng_state()
    one, other = start(TARGETS, 7), start("second", 7)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state changed"


def test_state_comes_back_bitwise(method: str, tmp_path: Path, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    attached = attached_to(net, method)
    expected, state = net(x), copy.deepcopy(attached.state_dict())
    file = AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})
    file.save(tmp_path / "a.safetensors")
    attached.detach()

    again = attach(net, config_of(method), TARGETS, seed=5).double()
    again.load_state_dict(state)
    assert torch.equal(net(x), expected)
    again.detach()

    AdapterFile.load(tmp_path / "a.safetensors").attach(net)
    assert torch.equal(net(x), expected)


def test_half_precision_base_has_a_full_precision_adapter(method: str, kind: Kind) -> None:
    exact, x = kind.net(torch.bfloat16).double(), kind.inputs(torch.bfloat16)
    attached_to(exact, method)
    net = kind.net(torch.bfloat16)
    attached = attached_to(net, method)
    y = net(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact(x.double()), rtol=0.05, atol=0.05)
    for gradient in gradients(attached, y.float().square().sum()):
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
    attached.merge()
    assert net.first.weight.dtype == torch.bfloat16
    attached.unmerge()
    assert same_bits(net, kind.net(torch.bfloat16))


def test_moving_the_model_keeps_the_precision_of_the_adapter(method: str, kind: Kind) -> None:
    net = kind.net(torch.float32)
    attached = attached_to(net, method)
    attached.merge()
    net.to(torch.bfloat16)
    assert {tensor.dtype for tensor in attached.parameters()} == {torch.float32}
    attached.unmerge()
    assert same_bits(net, kind.net(torch.float32).to(torch.bfloat16))
    assert net(kind.inputs(torch.bfloat16)).dtype == torch.bfloat16


def test_autocast_reaches_the_output_but_not_a_merge(method: str, kind: Kind) -> None:
    net, x = kind.net(torch.float32), kind.inputs(torch.float32)
    attached = attached_to(net, method)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        attached.merge()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    assert {gradient.dtype for gradient in gradients(attached, y.float().sum())} == {torch.float32}
    merged = net.first.weight.clone()
    attached.merge()
    assert torch.equal(net.first.weight, merged)


def test_gradient_checkpointing_changes_no_gradient(method: str, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    attached = attached_to(net, method, dropout=0.5)
    attached.train()
    found: list[list[Tensor]] = []
    passes: tuple[Callable[[Tensor], Tensor], ...] = (net, lambda x: checkpoint(net, x, use_reentrant=False))
    for run in passes:
        torch.manual_seed(4)
        found.append(gradients(attached, run(x).square().sum()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_dropout_acts_while_training_only(method: str, kind: Kind) -> None:
    plain, net, x = kind.net(), kind.net(), kind.inputs()
    attached_to(plain, method)
    attached = attached_to(net, method, dropout=0.5)
    assert torch.equal(net(x), plain(x))
    attached.train()
    assert not torch.equal(net(x), net(x))
    assert not torch.equal(net(x), plain(x))


def test_copy_of_an_adapted_model_is_independent(method: str, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    attached = attached_to(net, method)
    expected = net(x)
    twin, twin_attached = copy.deepcopy((net, attached))
    assert torch.equal(twin(x), expected)
    twin_attached.strength = 0.5
    assert not torch.equal(twin(x), expected)
    twin_attached.merge()
    twin_attached.detach()
    assert same_bits(twin, kind.net())
    assert torch.equal(net(x), expected)
    assert isinstance(net.first, AdaptedLayer)


def test_layers_can_have_their_own_rank_and_strength(method: str, tmp_path: Path, kind: Kind) -> None:
    net, x = kind.net(), kind.inputs()
    attached = attach(net, config_of(method), TARGETS, ranks={"block": 3}).double()
    assert {path: adapter.config.rank for path, adapter in attached.adapters.items()} == {"first": 2, "block.second": 3}
    assert attached.adapters["block.second"].config.scale == pytest.approx(config_of(method).scale)
    for _, layer, adapter in attached.layers():
        disturb(adapter, layer.base_weight)
    expected = net(x)
    file = AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})
    file.save(tmp_path / "a.safetensors")
    change = net.first(x) - kind.net().first(x)
    attached.strength, attached.strengths = 2.0, {"first|block": 0.0, "first": 0.25}
    torch.testing.assert_close(net.first(x), kind.net().first(x) + 0.5 * change)
    assert torch.equal(net.block["second"](net.first(x)), kind.net().block["second"](net.first(x)))
    attached.detach()
    attached.strength = 1.0  # of no effect, and no error
    AdapterFile.load(tmp_path / "a.safetensors").attach(net)
    assert torch.equal(net(x), expected)


def test_impossible_rank_names_the_layer_and_changes_nothing(method: str, kind: Kind) -> None:
    net = kind.net()
    with pytest.raises(ConfigError, match=rf"rank = 1000.*\b({'|'.join(LAYERS)})\b"):
        attach(net, config_of(method, rank=1000), TARGETS)
    assert type(net.first) is type(kind.net().first)


@pytest.mark.parametrize(
    "options",
    [{"rank": 0}, {"rank": 2.5}, {"rank": True}, {"alpha": 0.0}, {"alpha": float("nan")}, {"dropout": 1.0}],
    ids=str,
)
def test_impossible_options_are_named(method: str, options: dict[str, object], kind: Kind) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        config_of(method, **options)
