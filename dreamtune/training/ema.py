"""Exponential moving average of the trained parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


class Ema:
    """Averages avg <- d avg + (1 - d) p of parameters, in fp32 on their device.

    d = min(decay, (1 + n)/(10 + n)) at update n = 1, 2, ..., so that the initial values are soon forgotten in short
    trainings too (the warm-up of TensorFlow's ExponentialMovingAverage, which diffusers has as well).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        """Begin with the present values. decay: in [0, 1)."""
        assert 0 <= decay < 1, decay
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.averages = [parameter.detach().float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present values; after every optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, [p.detach().float() for p in self.parameters], 1 - decay)

    @contextlib.contextmanager
    def swap(self) -> Iterator[None]:
        """Within the block the parameters hold their averages; afterwards, bit for bit, what they held before."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(before)

    def keep(self) -> None:
        """Give the parameters their averages for good."""
        self._set(self.averages)

    def state_dict(self) -> dict[str, Any]:
        """Number of updates and the averages, in the order of the parameters."""
        return {"updates": self.updates, "averages": [average.clone() for average in self.averages]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave, on any device."""
        self.updates = state["updates"]
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
