"""The layers that adapters act in: Linear layers and convolutions."""

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
    _base_weight: Tensor | None
    _device: torch.device
    """Where the adapters are."""

    @staticmethod
    def install(layer: nn.Module) -> AdaptedLayer:
        """Turn `layer` into an adapted one in place. Raises IncompatibleModelError for kinds that cannot be."""
        if isinstance(layer, AdaptedLayer):
            return layer
        obstacle = obstacle_in(layer)
        if obstacle:
            raise IncompatibleModelError(obstacle)
        layer.__class__ = _ADAPTED[type(layer)]
        vars(layer).pop("forward", None)  # that of its former class, which removed hooks leave behind
        adapted = cast(AdaptedLayer, layer)
        adapted._slots, adapted._base_weight, adapted._device = [], None, adapted.weight.device
        return adapted

    @property
    def base_weight(self) -> Tensor:
        """The weight without any adapter, as the matrix (out, in) or (out, in·kh·kw)."""
        return _matrix(self.weight if self._base_weight is None else self._base_weight)

    def insert(self, slot: Slot) -> None:
        """Let `slot` act here."""
        self._slots.append(slot)
        slot.adapter.on_weight(self.base_weight)

    def remove(self, slot: Slot) -> None:
        """Take `slot` out again; without any the layer is what it was, bit for bit.

        A hook that was put on it meanwhile goes on calling this class's forward, which is then the plain one.
        """
        self._slots.remove(slot)
        self.refresh()
        if not self._slots:
            del self._slots, self._base_weight, self._device
            if not is_hooked(self):
                vars(self).pop("forward", None)
            cast(nn.Module, self).__class__ = self.plain

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the weight W + Σ sᵢ·ΔWᵢ over the merged slots, summed in fp32 or better; W itself if there are none."""
        merged = [slot for slot in self._slots if slot.merged and slot.strength]
        if not merged:
            if self._base_weight is not None:
                self.weight.copy_(self._base_weight)
                self._base_weight = None
            return
        if self._base_weight is None:
            self._base_weight = self.weight.detach().clone()
        base_weight = self.base_weight
        wide = torch.promote_types(base_weight.dtype, torch.float32)
        with torch.autocast(self.weight.device.type, enabled=False):
            changes = [slot.strength * slot.adapter.delta_weight(base_weight).to(wide) for slot in merged]
            self.weight.copy_((base_weight.to(wide) + sum(changes[1:], changes[0])).view(self.weight.shape))

    def check_there(self) -> None:
        """Raise IncompatibleModelError where the weight cannot be changed: offloading keeps it elsewhere."""
        if self.weight.is_meta and is_hooked(self):
            raise IncompatibleModelError(f"the weights are offloaded and cannot be changed: {_UNHOOK}")

    def _is_alone(self, live: list[Slot]) -> bool:
        """Whether one adapter acts, on weights that are frozen and plain: it may then do all at one go."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]  # as attributes they take microseconds
        if type(weight) not in _PLAIN:
            for slot in live:
                if slot.adapter.uses_weight:
                    raise IncompatibleModelError(
                        f"the change of {type(slot.adapter).__name__} depends on weights that were quantized "
                        "after it was attached: leave its layers unquantized"
                    )
            return False
        trained = any(it is not None and it.requires_grad for it in (weight, bias))
        return len(live) == 1 and self._base_weight is None and not trained

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the adapters with the layer; their precision stays (adapters are fp32 on half-precision bases)."""
        super()._apply(fn, recurse)
        if self._base_weight is not None:
            self._base_weight = fn(self._base_weight)
        self._follow(self.weight.device)
        for slot in self._slots:
            slot.adapter.on_weight(self.base_weight)
        return self

    def _follow(self, device: torch.device) -> None:
        """Bring the adapters to `device`: offloading brings the weight alone where the inputs are."""
        for slot in self._slots:
            slot.adapter.to(device)
        self._device = device

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Tell the adapters of the new weight, which is one without adapters: merged ones are merged into it."""
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        merged = self._base_weight is not None and f"{prefix}weight" in state_dict
        if merged:
            self._base_weight = None
            self.weight.data = self.weight.data.clone()  # it may be the caller's own tensor
        for slot in self._slots:
            slot.adapter.on_weight(self.base_weight)
        if merged:
            self.refresh()


class AdaptedLinear(AdaptedLayer, nn.Linear):
    """A Linear layer with adapters: y = W x + b + Σ sᵢ·ΔWᵢ x."""

    plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output (..., out) for input (..., in)."""
        weight, bias, live = self._parameters["weight"], self._parameters["bias"], _live(self, input)
        assert weight is not None
        if live and self._is_alone(live):
            return live[0].adapter.layer_output(input, weight, bias, live[0].strength)
        y = F.linear(input, weight, bias)
        return _added(y, [scaled(it.strength, it.adapter.delta_output(input, self.base_weight)) for it in live])


class AdaptedConv2d(AdaptedLayer, nn.Conv2d):
    """A convolution with adapters: to them its weight (out, in, kh, kw) is the matrix (out, in·kh·kw)."""

    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output (n, out, h', w') for input (n, in, h, w)."""
        weight, bias, live = self._parameters["weight"], self._parameters["bias"], _live(self, input)
        assert weight is not None
        convolve = self._conv_forward  # with this layer's stride, padding and dilation, by any weight
        if live and self._is_alone(live):
            return live[0].adapter.convolved(input, weight, bias, live[0].strength, convolve)
        y = convolve(input, weight, bias)
        if not live:
            return y
        base_weight = weight if self._base_weight is None else self._base_weight
        return _added(y, [scaled(it.strength, it.adapter.delta_convolved(input, base_weight, convolve)) for it in live])


_ADAPTED: dict[type[nn.Module], type[AdaptedLayer]] = {kind.plain: kind for kind in (AdaptedLinear, AdaptedConv2d)}
ADAPTABLE = (nn.Linear, nn.Conv2d)
"""Kinds of layers that can be adapted; subclasses of other tools cannot."""
_PLAIN = (nn.Parameter, Tensor)
_UNHOOK = "remove the hooks first (accelerate.hooks.remove_hook_from_submodules, diffusers' disable or remove methods)"


def is_hooked(layer: nn.Module) -> bool:
    """Whether `layer` has a forward of its own, around that of its class, as hooks of accelerate and diffusers do."""
    own = vars(layer).get("forward")
    forwards = [forward for kind in _ADAPTED.values() for forward in (kind.forward, kind.plain.forward)]
    return own is not None and getattr(own, "__func__", None) not in forwards  # which hooks leave when they are removed


def obstacle_in(layer: nn.Module, name: str = "") -> str | None:
    """Why adapters cannot act in `layer`, which messages call `name`, in one line; None if they can."""
    called = f"the layer {name} is a {type(layer).__name__}" if name else f"a {type(layer).__name__} cannot be adapted"
    if not isinstance(layer, ADAPTABLE):
        return f"{called}: only Linear and Conv2d layers can be adapted"
    if type(layer) not in ADAPTABLE and not isinstance(layer, AdaptedLayer):
        kind = "Linear" if isinstance(layer, nn.Linear) else "Conv2d"
        return (
            f"{called}, not a plain torch.nn.{kind}: remove other tools' adapters or quantization from the model first"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"{called} with {layer.groups} groups: only convolutions with one group can be adapted"
    weight = cast(Tensor, layer.weight)
    if type(weight.data) is not Tensor:
        return f"{called} with a weight of {type(weight.data).__name__}: load the base without quantization"
    if is_hooked(layer) and (weight.is_meta or not isinstance(layer, AdaptedLayer)):
        wrapped = "with a hook from offloading or casting"
        return f"{called} {wrapped}: attach the adapter before offloading or casting, or {_UNHOOK}"
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
    return layer.base_weight if isinstance(layer, AdaptedLayer) else _matrix(cast(Tensor, layer.weight))


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1) if weight.dim() > 2 else weight


def _live(layer: AdaptedLayer, input: Tensor) -> list[Slot]:
    """The slots that act beside the weight, where the input is; none of a layer that is no longer adapted."""
    slots = vars(layer).get("_slots")
    if not slots:
        return []
    if layer._device != input.device:
        layer._follow(input.device)
    return [slot for slot in slots if slot.strength and not slot.merged]


def _added(y: Tensor, changes: list[Tensor]) -> Tensor:
    """The sum; that of the changes first, so that two adapters add up to the same bits in either order."""
    return y + sum(changes[1:], changes[0]) if changes else y
