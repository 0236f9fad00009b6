"""Layers of a UNet in which each region's ΔW acts on the region's own pixels."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dreamtune.adapters.delta import Delta
from dreamtune.adapters.patches import multiplied

from .places import Places

_SPATIAL = re.compile(
    r"\.transformer_blocks\.|\.attentions\.\d+\.proj_(in|out)$|\.resnets\.\d+\.conv|\.(down|up)samplers\.|^conv_(in|out)$"
)


class Masked(ABC):
    """Adds Σ Mᵢ ⊙ ΔWᵢ x to what a layer gives."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._ranks: tuple[int, ...] = ()
        self._whole: list[tuple[int, Tensor]] = []
        self._up = self._down = torch.empty(0)

    def change(self, deltas: Sequence[Delta | None]) -> None:
        """The regions' ΔW. Small factors of all regions stand side by side: Σ Mᵢ ⊙ UᵢDᵢx = U (M ⊙ Dx)."""
        small = [None if it is None or it.whole is not None else it for it in deltas]
        self._ranks = tuple(0 if it is None else it.columns for it in small)
        if any(self._ranks):
            self._up = torch.cat([it.up for it in small if it is not None], 1)
            self._down = torch.cat([it.down for it in small if it is not None])
        self._whole = [(i, it.whole) for i, it in enumerate(deltas) if it is not None and it.whole is not None]

    @abstractmethod
    def install(self, unet: nn.Module, name: str) -> list[RemovableHandle]:
        """Act in the layer `name`, until the hooks are removed."""

    def _cast(self, x: Tensor) -> None:
        """Bring all matrices to x's precision and device, once."""
        self._up, self._down = self._up.to(x), self._down.to(x)
        self._whole = [(index, matrix.to(x)) for index, matrix in self._whole]


class OnPixels(Masked):
    """Of a linear layer on pixels (n, pixels, in)."""

    def install(self, unet: nn.Module, name: str) -> list[RemovableHandle]:
        """Changes the output in place, which the layer has just made."""
        return [unet.get_submodule(name).register_forward_hook(self._add)]

    def _add(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        self._cast(x)
        if any(self._ranks):
            inner = F.linear(x, self._down).mul_(self.places.columns(self._ranks, x))
            output.flatten(0, 1).addmm_(inner.flatten(0, 1), self._up.T)
        for index, matrix in self._whole:
            pixels, share = self.places.own(index, x)
            output.index_add_(1, pixels, F.linear(x.index_select(1, pixels), matrix).mul_(share))
        return output


class OnMaps(Masked):
    """Of a convolution, whose output (n, out, h, w) is what has places."""

    def install(self, unet: nn.Module, name: str) -> list[RemovableHandle]:
        """Changes the output in place, which the layer has just made."""
        return [unet.get_submodule(name).register_forward_hook(self._add)]

    def _add(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self._cast(inputs[0])
        return self._added(output, lambda matrix: multiplied(layer, inputs[0], matrix))

    def _added(self, output: Tensor, by: Callable[[Tensor], Tensor]) -> Tensor:
        """by: matrix (k, in) -> its product with the layer's input, (n, k, h, w) or (n, k, 1, 1)."""
        if any(self._ranks):
            inner = by(self._down) * self.places.maps(self._ranks, output)
            output.add_(F.conv2d(inner, self._up[:, :, None, None]))
        for index, matrix in self._whole:
            output.addcmul_(by(matrix), self.places.map(index, output))
        return output


class OnTime(OnMaps):
    """Of a resnet's layer on the timestep (n, in), whose output is added to every pixel, just before `norm2`."""

    def install(self, unet: nn.Module, name: str) -> list[RemovableHandle]:
        """What the layer got is taken there, and its changes are added to what the norm gets, in place."""
        norm = unet.get_submodule(f"{name.rpartition('.')[0]}.norm2")
        times: list[Tensor] = []

        def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            times[:] = inputs

        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            self._cast(inputs[0])
            return (self._added(inputs[0], lambda matrix: F.linear(times[0], matrix)[:, :, None, None]),)

        return [unet.get_submodule(name).register_forward_pre_hook(take), norm.register_forward_pre_hook(add)]


def masked_kind(unet: nn.Module, name: str) -> type[Masked] | None:
    """How the layer `name` is changed by regions; None if it acts on no pixels."""
    outer, _, last = name.rpartition(".")
    if last == "time_emb_proj":
        return OnTime if getattr(unet.get_submodule(outer), "time_embedding_norm", None) == "default" else None
    if not _SPATIAL.search(name):
        return None
    return OnMaps if isinstance(unet.get_submodule(name), nn.Conv2d) else OnPixels
