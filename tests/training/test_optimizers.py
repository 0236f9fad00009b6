"""Every optimizer learns, gives each parameter its own rate, and goes on bitwise from a checkpoint."""

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamtune.adapters import METHODS, AttachedAdapter, AttachedParts, attach
from dreamtune.adapters.base import ParameterOptions
from dreamtune.errors import ConfigError
from dreamtune.training import optimizers
from dreamtune.training.archive import read_tree, write_tree
from dreamtune.training.config import TrainConfig

NAMES = ("adamw", "adamw8bit", "prodigy")
LR = {"adamw": 1e-2, "adamw8bit": 1e-2, "prodigy": 1.0}

Groups = Mapping[ParameterOptions, list[nn.Parameter]]


def settings(optimizer: str = "adamw", **changes: Any) -> TrainConfig:
    values = {"images": "photos", "class_word": "dog", "optimizer": optimizer, "lr": LR[optimizer], "steps": 100}
    return TrainConfig(**values | changes)


def needs(optimizer: str) -> None:
    if optimizer in optimizers.EXTRAS:
        pytest.importorskip(optimizers.EXTRAS[optimizer])


def attached(method: str = "lora", **options: Any) -> tuple[nn.Module, AttachedAdapter]:
    """Two layers, one of them large enough (4096 numbers) for moments in 8 bits; odd sizes for the fused kernels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1037, 67), nn.Linear(67, 19)).requires_grad_(False)
    return model, attach(model, METHODS[method].config_class(**{"rank": 5, **options}), "[01]")


def train(model: nn.Module, adapter: AttachedAdapter, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Steps towards a fixed goal; the inputs of each depend on its number alone. Returns the losses."""
    values = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 1037, generator=generator)
        loss = (model(x) - x[:, :19].sin()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    return values


def tensors(adapter: AttachedAdapter) -> list[Tensor]:
    return [tensor.clone() for tensor in adapter.state_dict().values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns(name: str) -> None:
    needs(name)
    model, adapter = attached()
    steps = 200 if name == "prodigy" else 40  # it begins with steps of 1e-6, which it has to find too small
    losses = train(model, adapter, optimizers.build(settings(name), adapter.parameter_groups()), range(steps))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_resumed_through_the_disk_it_goes_on_bitwise(name: str, method: str, tmp_path: Path) -> None:
    needs(name)
    config = settings(name, weight_decay=0.1, warmup_steps=3)
    model, adapter = attached(method)
    optimizer = optimizers.build(config, adapter.parameter_groups())
    train(model, adapter, optimizer, range(7))
    write_tree(tmp_path, "optimizer", optimizer.state_dict())
    write_tree(tmp_path, "adapter", dict(adapter.state_dict()))
    train(model, adapter, optimizer, range(7, 15))

    other, again = attached(method)
    optimizer = optimizers.build(config, again.parameter_groups())
    optimizer.load_state_dict(read_tree(tmp_path, "optimizer"))
    again.load_state_dict(read_tree(tmp_path, "adapter"))
    train(other, again, optimizer, range(7, 15))
    assert all(torch.equal(a, b) for a, b in zip(tensors(adapter), tensors(again), strict=True))


def test_fused_and_plain_adamw_agree() -> None:
    """The fused kernel is the same optimizer."""
    results = []
    for fused in (True, False):
        model, adapter = attached()
        optimizer = optimizers.build(settings(weight_decay=0.1), adapter.parameter_groups())
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        train(model, adapter, optimizer, range(10))
        results.append(tensors(adapter))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "dora", "lora-dash"])
def test_lora_plus_moves_b_that_much_faster_and_a_as_before(method: str) -> None:
    """Adam's first step moves every number by its learning rate."""
    _, plain = attached(method)
    _, adapter = attached(method)
    for one, ratio in ((plain, 1.0), (adapter, 16.0)):
        optimizer = optimizers.build(settings(lora_plus_ratio=ratio, weight_decay=0.0), one.parameter_groups())
        for parameter in one.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for name, moved in adapter.named_parameters():
        reference, factor = plain.get_parameter(name), 16.0 if name.endswith(".up") else 1.0
        _, start = attached(method)
        torch.testing.assert_close(
            moved - start.get_parameter(name), factor * (reference - start.get_parameter(name)), rtol=1e-3, atol=1e-6
        )


def test_rates_follow_the_schedule_and_survive_a_resume() -> None:
    _, adapter = attached("lora-dash", dash_lr_ratio=7.0)
    config = settings(lora_plus_ratio=4.0)
    optimizer = optimizers.build(config, adapter.parameter_groups())
    state = copy.deepcopy(optimizer.state_dict())
    optimizers.set_lr(optimizer, 1e-3)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([1e-3, 4e-3, 7e-3])
    optimizer.load_state_dict(state)
    optimizers.set_lr(optimizer, 2e-3)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([2e-3, 8e-3, 14e-3])


@pytest.mark.parametrize("method", METHODS)
def test_lora_plus_is_refused_where_there_is_no_b(method: str) -> None:
    _, adapter = attached(method)
    groups = adapter.parameter_groups()
    optimizers.check(settings(), groups)
    has = any(options.is_up for options in groups)
    assert has == (method in ("lora", "dora", "lora-dash"))
    if has:
        optimizers.check(settings(lora_plus_ratio=16), groups)
    else:
        with pytest.raises(
            ConfigError, match=r"lora_plus_ratio = 16 works only for methods with LoRA's factors.*set it to"
        ):
            optimizers.check(settings(method=method, lora_plus_ratio=16), groups)


def test_prodigy_refuses_rates_that_it_cannot_tell_apart() -> None:
    needs("prodigy")
    for method, options, changes in (("lora", {}, {"lora_plus_ratio": 4}), ("lora-dash", {"dash_lr_ratio": 4.0}, {})):
        _, adapter = attached(method, **options)
        with pytest.raises(ConfigError, match=r"prodigy.*1 and 4 times the learning rate: set .*to 1, or use adamw"):
            optimizers.check(settings("prodigy", method=method, **changes), adapter.parameter_groups())
    _, adapter = attached("lora-dash", dash_lr_ratio=1.0)
    optimizers.check(settings("prodigy"), adapter.parameter_groups())
    text = AttachedParts({"unet": attached()[1], "text_encoder": attached()[1]}, lr_ratios={"text_encoder": 0.5})
    with pytest.raises(ConfigError, match=r"0\.5 and 1 times the learning rate: set text_encoder_lr .* to lr"):
        optimizers.check(settings("prodigy"), text.parameter_groups())


def test_prodigy_takes_its_own_rate_unless_told() -> None:
    values: dict[str, Any] = {"images": "photos", "class_word": "dog", "optimizer": "prodigy"}
    for family in ("pocket", "sd1"):
        assert TrainConfig(**values).with_presets(family).lr == 1.0
        assert TrainConfig(**values, lr=0.5).with_presets(family).lr == 0.5


def test_prodigy_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    needs("prodigy")
    _, adapter = attached()
    optimizers.build(settings("prodigy", weight_decay=0.1), adapter.parameter_groups())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", list(optimizers.EXTRAS))
def test_missing_package_is_named_with_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = optimizers.EXTRAS[name]
    monkeypatch.setitem(sys.modules, package, None)
    _, adapter = attached()
    for use in (optimizers.check, optimizers.build):
        action: Callable[..., object] = use
        with pytest.raises(ConfigError, match=rf"needs the package {package}.*pip install {package}"):
            action(settings(name), adapter.parameter_groups())


def test_package_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prodigyopt.py").write_text("raise ImportError('no libcuda.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "prodigyopt", raising=False)
    _, adapter = attached()
    with pytest.raises(ConfigError, match=r"prodigyopt, which cannot be used here \(no libcuda.so\), or use adamw"):
        optimizers.check(settings("prodigy"), adapter.parameter_groups())
