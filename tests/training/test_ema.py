"""The average is what the equation says, and the parameters are what they were."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dreamtune.training.archive import read_tree, write_tree
from dreamtune.training.ema import Ema


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(7))]


def move(values: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for value in values:
            value.add_(torch.randn_like(value))


def test_average_follows_the_equation() -> None:
    values = parameters()
    ema = Ema(values, 0.5)
    expected = [value.detach().double().clone() for value in values]
    for n in range(1, 20):
        move(values)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = [decay * e + (1 - decay) * v.detach() for e, v in zip(expected, values, strict=True)]
    with ema.swap():
        for value, goal in zip(values, expected, strict=True):
            torch.testing.assert_close(value.detach().double(), goal, rtol=1e-5, atol=1e-6)


def test_parameters_come_back_bitwise_even_after_an_error() -> None:
    values = parameters()
    ema = Ema(values, 0.9)
    move(values)
    ema.update()
    before = [value.detach().clone() for value in values]
    with pytest.raises(KeyError), ema.swap():
        assert not torch.equal(values[0], before[0])
        raise KeyError
    assert all(torch.equal(value, old) for value, old in zip(values, before, strict=True))
    assert all(value.requires_grad for value in values)


def test_resumed_through_the_disk_it_goes_on_bitwise(tmp_path: Path) -> None:
    values = parameters()
    ema = Ema(values, 0.99)
    for _ in range(5):
        move(values)
        ema.update()
    write_tree(tmp_path, "ema", ema.state_dict())
    again = Ema(parameters(), 0.99)
    again.load_state_dict(read_tree(tmp_path, "ema"))
    again.parameters = values
    for _ in range(5):
        move(values)
        ema.update()
        again.update()
    assert ema.updates == again.updates == 10
    assert all(torch.equal(a, b) for a, b in zip(ema.averages, again.averages, strict=True))


def test_averages_are_no_part_of_the_graph() -> None:
    values = parameters()
    ema = Ema(values, 0.9)
    ema.update()
    assert not any(average.requires_grad for average in ema.averages)
    sum(value.square().sum() for value in values).backward()  # pyright: ignore[reportAttributeAccessIssue]
    with ema.swap():
        pass
    assert all(value.grad is not None for value in values)
