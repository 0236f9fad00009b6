"""The Linear layer that adapters act in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.errors import IncompatibleModelError

from .base import Adapter, scaled


class Slot:
    """One adapter in one layer, with its strength; `merged` when it is part of the weight."""

    def __init__(self, adapter: Adapter, strength: float) -> None:
        self.adapter, self.strength, self.merged = adapter, strength, False


def pristine_weight(layer: nn.Linear) -> Tensor:
    """The weight (out, in) of a plain or adapted layer, without any adapter."""
    return layer.pristine if isinstance(layer, AdaptedLinear) else layer.weight


class AdaptedLinear(nn.Linear):
    """A Linear layer with adapters: y = W x + b + Σ sᵢ·ΔWᵢ x, in any order; sᵢ = 0 is exactly the base.

    Installed by swapping `__class__`, so that parameters, their names and isinstance stay as they were. The adapters
    are no submodules: the model's own state_dict() and parameters() do not change.
    """

    _slots: list[Slot]
    _pristine: Tensor | None

    @staticmethod
    def install(layer: nn.Linear) -> AdaptedLinear:
        """Turn `layer` into an AdaptedLinear in place. Raises IncompatibleModelError for other kinds of Linear."""
        if isinstance(layer, AdaptedLinear):
            return layer
        if type(layer) is not nn.Linear:
            raise IncompatibleModelError(
                f"a {type(layer).__name__} cannot be adapted, only torch.nn.Linear: "
                "remove other tools' adapters or quantisation from the model first"
            )
        layer.__class__ = AdaptedLinear
        adapted = cast(AdaptedLinear, layer)
        adapted._slots, adapted._pristine = [], None
        return adapted

    @property
    def pristine(self) -> Tensor:
        """The weight (out, in) without any adapter."""
        return self.weight if self._pristine is None else self._pristine

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output (..., out) for input (..., in)."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]  # as attributes they take microseconds
        assert weight is not None
        live = [slot for slot in self._slots if slot.strength and not slot.merged]
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        if len(live) == 1 and self._pristine is None and not trained:
            return live[0].adapter.layer_output(input, weight, bias, live[0].strength)
        y = F.linear(input, weight, bias)
        change = None  # summed on its own first: two adapters then add up to the same bits in either order
        for slot in live:
            part = scaled(slot.strength, slot.adapter.delta_output(input, self.pristine))
            change = part if change is None else change + part
        return y if change is None else y + change

    def insert(self, slot: Slot) -> None:
        """Let `slot` act here."""
        self._slots.append(slot)
        slot.adapter.on_weight(self.pristine)

    def remove(self, slot: Slot) -> None:
        """Take `slot` out again; without any the layer is what it was, bit for bit."""
        self._slots.remove(slot)
        self.refresh()
        if not self._slots:
            del self._slots, self._pristine
            cast(nn.Linear, self).__class__ = nn.Linear

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the weight W + Σ sᵢ·ΔWᵢ over the merged slots, summed in fp32 or better; W itself if there are none."""
        merged = [slot for slot in self._slots if slot.merged and slot.strength]
        if not merged:
            if self._pristine is not None:
                self.weight.copy_(self._pristine)
                self._pristine = None
            return
        if self._pristine is None:
            self._pristine = self.weight.detach().clone()
        wide = torch.promote_types(self._pristine.dtype, torch.float32)
        with torch.autocast(self.weight.device.type, enabled=False):
            changes = [slot.strength * slot.adapter.delta_weight(self._pristine).to(wide) for slot in merged]
            self.weight.copy_(self._pristine.to(wide) + sum(changes[1:], changes[0]))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> AdaptedLinear:
        """Move the adapters with the layer; their precision stays (adapters are fp32 on half-precision bases)."""
        super()._apply(fn, recurse)
        if self._pristine is not None:
            self._pristine = fn(self._pristine)
        for slot in self._slots:
            slot.adapter.to(self.weight.device)
            slot.adapter.on_weight(self.pristine)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Tell the adapters of the new weight, which is one without adapters: merged ones are merged into it."""
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        merged = self._pristine is not None and f"{prefix}weight" in state_dict
        if merged:
            self._pristine = None
            self.weight.data = self.weight.data.clone()  # it may be the caller's own tensor
        for slot in self._slots:
            slot.adapter.on_weight(self.pristine)
        if merged:
            self.refresh()
