"""Adapters that take turns, or whose predictions are averaged, never meet in the weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamtune.adapters import attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.generation.composite import composite, turn
from dreamtune.models import load_base
from tests.adapters.nets import disturb


@pytest.fixture(scope="module")
def unet(tiny: Any) -> nn.Module:
    return load_base(tiny, "cpu").unet


@torch.no_grad()
def predict(unet: Any) -> Tensor:
    made = torch.Generator().manual_seed(0)
    return unet(torch.randn(2, 4, 8, 8, generator=made), 10, torch.randn(2, 5, 32, generator=made)).sample


def test_adapters_take_turns_of_some_steps() -> None:
    assert [turn(step, 2, 3) for step in range(8)] == [0, 0, 0, 1, 1, 1, 0, 0]
    assert [turn(step, 3, 1) for step in range(4)] == [0, 1, 2, 0]
    assert [turn(step, 2) for step in (4, 5, 9, 10)] == [0, 1, 1, 0]  # of 5, as in the paper


def test_the_mean_of_predictions_with_each_adapter_alone(unet: nn.Module) -> None:
    base = predict(unet)
    with attach(unet, LoRAConfig(rank=2), seed=1) as one, attach(unet, LoRAConfig(rank=2), seed=2) as two:
        for attached, seed in ((one, 100), (two, 200)):
            for index, (_, layer, it) in enumerate(attached.layers()):
                disturb(it, layer.base_weight, seed + index)
        together = predict(unet)
        with two.disabled():
            first = predict(unet)
        with one.disabled():
            second = predict(unet)
        with composite(unet, [one, two]):
            mean = predict(unet)
            one.strength = 0
            torch.testing.assert_close(predict(unet), second)  # one that is off takes no part
            two.strength = 0
            torch.testing.assert_close(predict(unet), base)
            one.strength = two.strength = 1
        torch.testing.assert_close(mean, (first + second) / 2)
        assert (mean - together).abs().max() > 0.01
        torch.testing.assert_close(predict(unet), together)  # afterwards nothing is left
    assert "forward" not in vars(unet)
