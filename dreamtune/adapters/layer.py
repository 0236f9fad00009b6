"""The layers that adapters act in: linear ones, and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.errors import IncompatibleModelError

from .base import Adapter, scaled


class Slot:
    """One adapter in one layer, with its strength; `merged` when it is part of the weight."""

    def __init__(self, adapter: Adapter, strength: float) -> None:
        self.adapter, self.strength, self.merged = adapter, strength, False


class AdaptedLayer(nn.Module):
    """A layer with adapters: what W x + b was is (W + Σ sᵢ·ΔWᵢ) x + b, in any order; sᵢ = 0 is exactly the base.

    Installed by swapping `__class__`, so that parameters, their names and isinstance stay as they were. The adapters
    are no submodules: the model's own state_dict() and parameters() do not change.
    """

    plain: ClassVar[type[nn.Module]]
    """What the layer is without adapters."""
    weight: Tensor
    _slots: list[Slot]
    _pristine: Tensor | None

    @staticmethod
    def install(layer: nn.Module) -> AdaptedLayer:
        """Turn `layer` into an adapted one in place. Raises IncompatibleModelError for kinds that cannot be."""
        if isinstance(layer, AdaptedLayer):
            return layer
        obstacle = obstacle_in(layer)
        if obstacle:
            raise IncompatibleModelError(obstacle)
        layer.__class__ = _ADAPTED[type(layer)]
        adapted = cast(AdaptedLayer, layer)
        adapted._slots, adapted._pristine = [], None
        return adapted

    @property
    def pristine(self) -> Tensor:
        """The weight without any adapter, as the matrix (out, in) or (out, in·kh·kw)."""
        return _matrix(self.weight if self._pristine is None else self._pristine)

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
            cast(nn.Module, self).__class__ = self.plain

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
        pristine = self.pristine
        wide = torch.promote_types(pristine.dtype, torch.float32)
        with torch.autocast(self.weight.device.type, enabled=False):
            changes = [slot.strength * slot.adapter.delta_weight(pristine).to(wide) for slot in merged]
            self.weight.copy_((pristine.to(wide) + sum(changes[1:], changes[0])).view(self.weight.shape))

    def _live(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.strength and not slot.merged]

    def _is_trained(self) -> bool:
        weight, bias = self._parameters["weight"], self._parameters["bias"]  # as attributes they take microseconds
        return any(it is not None and it.requires_grad for it in (weight, bias))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
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


class AdaptedLinear(AdaptedLayer, nn.Linear):
    """A Linear layer with adapters: y = W x + b + Σ sᵢ·ΔWᵢ x."""

    plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output (..., out) for input (..., in)."""
        weight, bias, live = self._parameters["weight"], self._parameters["bias"], self._live()
        assert weight is not None
        if len(live) == 1 and self._pristine is None and not self._is_trained():
            return live[0].adapter.layer_output(input, weight, bias, live[0].strength)
        y = F.linear(input, weight, bias)
        return _added(y, [scaled(it.strength, it.adapter.delta_output(input, self.pristine)) for it in live])


class AdaptedConv2d(AdaptedLayer, nn.Conv2d):
    """A convolution with adapters: to them its weight (out, in, kh, kw) is the matrix (out, in·kh·kw)."""

    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output (n, out, h', w') for input (n, in, h, w)."""
        weight, bias, live = self._parameters["weight"], self._parameters["bias"], self._live()
        assert weight is not None
        convolve = self._conv_forward  # with this layer's stride, padding and dilation, by any weight
        if len(live) == 1 and self._pristine is None and not self._is_trained():
            return live[0].adapter.convolved(input, weight, bias, live[0].strength, convolve)
        pristine = weight if self._pristine is None else self._pristine
        y = convolve(input, weight, bias)
        return _added(y, [scaled(it.strength, it.adapter.delta_convolved(input, pristine, convolve)) for it in live])


_ADAPTED: dict[type[nn.Module], type[AdaptedLayer]] = {kind.plain: kind for kind in (AdaptedLinear, AdaptedConv2d)}
ADAPTABLE = (nn.Linear, nn.Conv2d)
"""Kinds of layers that can be adapted; subclasses of other tools cannot."""


def obstacle_in(layer: nn.Module, name: str = "") -> str | None:
    """Why adapters cannot act in `layer`, which messages call `name`, in one line; None if they can."""
    called = f"the layer {name} is a {type(layer).__name__}" if name else f"a {type(layer).__name__} cannot be adapted"
    if not isinstance(layer, ADAPTABLE):
        return f"{called}: only Linear and Conv2d layers are adapted"
    if type(layer) not in ADAPTABLE and not isinstance(layer, AdaptedLayer):
        kind = "Linear" if isinstance(layer, nn.Linear) else "Conv2d"
        return (
            f"{called}, not a plain torch.nn.{kind}: remove other tools' adapters or quantisation from the model first"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"{called} of {layer.groups} groups: only convolutions of one group are adapted"
    return None


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a Linear, or (out, in·kh·kw) of a Conv2d: the shape of ΔW."""
    shape = cast(Tensor, layer.weight).shape
    return shape[0], shape[1:].numel()


def kernel_of(layer: nn.Module) -> tuple[int, int] | None:
    """(kh, kw) of a convolution; None for a Linear layer."""
    return (layer.kernel_size[0], layer.kernel_size[1]) if isinstance(layer, nn.Conv2d) else None


def pristine_weight(layer: nn.Module) -> Tensor:
    """The weight of a plain or adapted layer without any adapter, as the matrix (out, in) or (out, in·kh·kw)."""
    return layer.pristine if isinstance(layer, AdaptedLayer) else _matrix(cast(Tensor, layer.weight))


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1) if weight.dim() > 2 else weight


def _added(y: Tensor, changes: list[Tensor]) -> Tensor:
    """The sum; that of the changes first, so that two adapters add up to the same bits in either order."""
    return y + sum(changes[1:], changes[0]) if changes else y
