"""LoRA-Dash against its paper (arXiv 2409.01035), written down plainly in fp64, and the moment of its launch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamtune.adapters import METHODS, attach
from dreamtune.adapters.base import ParameterOptions
from dreamtune.adapters.methods.lora_dash import LoRADash, LoRADashConfig, rates_of_change
from dreamtune.adapters.svd import SvdStore, default_store
from dreamtune.errors import ConfigError
from tests.adapters.nets import config_of, frozen_net, inputs


def make(out: int, width: int, config: LoRADashConfig, seed: int = 0) -> tuple[LoRADash, Tensor]:
    """A LoRA-Dash in fp64 with random A and B, and a weight that fp32 can hold."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator).double()
    adapter = LoRADash(config, out, width)
    adapter.initialize(weight, generator)
    adapter.double()
    for factor in (adapter.up, adapter.down):
        factor.data.normal_(0, 0.3, generator=generator)
    return adapter.eval(), weight


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_launch_and_change_are_the_papers(data: st.DataObject) -> None:
    out, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    rank, count = data.draw(st.integers(1, min(out, width))), data.draw(st.integers(1, 10))
    config = LoRADashConfig(rank=rank, alpha=data.draw(st.sampled_from([1.0, 3.0])), directions=count, launch_step=2)
    adapter, weight = make(out, width, config, data.draw(st.integers(0, 99)))
    plain = config.alpha / rank * adapter.up @ adapter.down
    adapter.on_step(1, weight)
    torch.testing.assert_close(adapter.delta_weight(weight), plain)
    adapter.on_step(2, weight)
    torch.testing.assert_close(adapter.delta_weight(weight), plain)  # Δσ = 0

    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    rates = [float(abs(u[:, i] @ plain.detach() @ vh[i]) / (s[i] + 1e-6)) for i in range(len(s))]
    chosen = sorted(range(len(s)), key=lambda i: -rates[i])[:count]
    found = adapter.indices.tolist()
    assert [rates[i] for i in found] == pytest.approx([rates[i] for i in chosen], rel=1e-4, abs=1e-7)
    torch.testing.assert_close(adapter.sigma, s[found], rtol=1e-5, atol=1e-6)

    adapter.delta_sigma.data.normal_(0, 1, generator=torch.Generator().manual_seed(1))
    expected = plain
    for k, i in enumerate(found):
        expected = expected + adapter.delta_sigma[k] * torch.outer(u[:, i], vh[i])
    torch.testing.assert_close(adapter.delta_weight(weight), expected, rtol=1e-4, atol=1e-5)  # ū, v̄ are kept in fp32

    exact = plain + adapter.left.T @ torch.diag(adapter.delta_sigma) @ adapter.right
    torch.testing.assert_close(adapter.delta_weight(weight), exact, rtol=1e-12, atol=1e-12)
    assert adapter.low_rank(weight)[0].shape[1] == rank + min(count, out, width)
    x = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wrt = list(adapter.parameters())
    ours = torch.autograd.grad(adapter.delta_output(x, weight).square().sum(), wrt, retain_graph=True)
    papers = torch.autograd.grad(F.linear(x, exact).square().sum(), wrt)
    for one, other in zip(ours, papers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_rates_of_change_by_the_definition() -> None:
    adapter, weight = make(6, 4, LoRADashConfig(rank=2))
    svd = default_store().full(weight)
    rates = rates_of_change(svd, *adapter.low_rank(weight))
    change = adapter.delta_weight(weight).detach()
    expected = (svd.u.double().T @ change @ svd.v.double()).diagonal().abs() / (svd.s.double() + 1e-6)
    torch.testing.assert_close(rates, expected)


def test_before_the_launch_it_is_lora_bit_for_bit() -> None:
    x = inputs(torch.float32)
    results = []
    for method in ("lora", "lora-dash"):
        net = frozen_net(torch.float32)
        attached = attach(net, config_of(method, dropout=0.2), "first|second", seed=3).train()
        optimizer = torch.optim.AdamW(attached.parameters(), lr=0.01)
        torch.manual_seed(0)
        for step in range(100):
            assert attached.on_step(step) == []
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        attached.eval()
        state = attached.state_dict()
        results.append([net(x), *(state[name] for name in sorted(state) if name.endswith((".up", ".down")))])
        for adapter in attached.adapters.values():
            sigma = dict(adapter.named_parameters()).get("delta_sigma")
            assert sigma is None or (sigma.grad is None and not optimizer.state.get(sigma)), "Adam's moments have begun"
        if method == "lora-dash":
            assert attached.on_step(100) == ["LoRA-Dash launched after 100 steps"]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_it_launches_once_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    full = SvdStore.full
    monkeypatch.setattr(SvdStore, "full", lambda store, weight: (asked.append(1), full(store, weight))[1])
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    attached = attach(net, config_of("lora-dash", launch_step=3), "first|second").train()
    for step in range(3):
        attached.on_step(step)
        for _ in range(200):
            net(x)
    assert asked == []
    attached.eval()
    net(x)
    with torch.no_grad():
        for adapter in attached.adapters.values():
            adapter.get_parameter("up").normal_(generator=torch.Generator().manual_seed(0))
    before = net(x)
    attached.on_step(3)
    assert len(asked) == 2
    torch.testing.assert_close(net(x), before)
    chosen = copy.deepcopy(attached.state_dict())
    with torch.no_grad():
        for adapter in attached.adapters.values():
            adapter.get_parameter("up").neg_().add_(1)
    assert attached.on_step(4) == []
    assert len(asked) == 2
    after = attached.state_dict()
    assert all(torch.equal(after[name], chosen[name]) for name in chosen if not name.endswith("up"))


@pytest.mark.parametrize("launched", [False, True])
def test_state_decides_whether_it_has_launched(launched: bool) -> None:
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    attached = attach(net, config_of("lora-dash", launch_step=5), "first|second")
    with torch.no_grad():
        for adapter in attached.adapters.values():
            adapter.get_parameter("up").normal_(generator=torch.Generator().manual_seed(0))
    if launched:
        attached.on_step(5)
        for adapter in attached.adapters.values():
            adapter.get_parameter("delta_sigma").data.fill_(0.5)
    expected, state = net(x), copy.deepcopy(attached.state_dict())
    attached.detach()
    for already in (False, True):  # the adapter that takes the state up may itself have launched, elsewhere
        other = attach(net, config_of("lora-dash", launch_step=5), "first|second", seed=9)
        if already:
            other.on_step(5)
        other.load_state_dict(state)
        assert torch.equal(net(x), expected)
        assert other.on_step(4) == []
        assert bool(other.on_step(6)) == (not launched), "only one that has not launched may choose"
        if launched:
            assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
        other.detach()


def test_chosen_by_what_the_base_was_not_by_what_was_merged() -> None:
    def chosen(merged: bool) -> list[Tensor]:
        net = frozen_net(torch.float32)
        first = attach(net, config_of("lora"), "first")
        first.adapters["first"].get_parameter("up").data.fill_(2.0)
        if merged:
            first.merge()
        attached = attach(net, config_of("lora-dash", directions=2), "first")
        dash = attached.adapters["first"]
        dash.get_parameter("up").data.fill_(0.1)
        attached.on_step(100)
        return [dash.get_buffer("indices"), dash.get_buffer("left")]

    assert all(torch.equal(one, other) for one, other in zip(chosen(False), chosen(True), strict=True))


def test_directions_have_a_learning_rate_of_their_own() -> None:
    attached = attach(frozen_net(), config_of("lora-dash", dash_lr_ratio=4.0), "first|second")
    groups = attached.parameter_groups()
    sigmas = [adapter.get_parameter("delta_sigma") for adapter in attached.adapters.values()]
    assert [id(p) for p in groups[ParameterOptions(lr_ratio=4.0)]] == [id(p) for p in sigmas]
    assert sum(len(group) for group in groups.values()) == 6


def test_count_of_trained_numbers() -> None:
    adapter = METHODS["lora-dash"](config_of("lora-dash", rank=3, directions=4), 5, 7)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 3 * (5 + 7) + 4
    assert {name: tuple(tensor.shape) for name, tensor in adapter.named_buffers()} == {
        "left": (4, 5),
        "right": (4, 7),
        "sigma": (4,),
        "indices": (4,),
        "launched": (),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launch_step": -1}, "launch_step = -1 must be at least 0"),
        ({"launch_step": 10.0}, "launch_step = 10.0 must be of type int"),
        ({"directions": 0}, "directions = 0 must be at least 1"),
        ({"dash_lr_ratio": 0.0}, "dash_lr_ratio = 0.0 must be positive and finite"),
        ({"dash_lr_ratio": float("nan")}, "dash_lr_ratio = nan must be positive and finite"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("lora-dash", **options)
