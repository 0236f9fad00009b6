"""One layer of another tool's file, as an adapter of ours: which method, which options, which tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError, ConfigError

from ..methods import METHODS
from ..methods.lokr import LoKrConfig, sizes, whole_from
from .factors import truncated

_METHODS = {
    "lora": ({"up", "down"}, set[str]()),
    "dora": ({"up", "down", "magnitude"}, set[str]()),
    "loha": ({"up1", "down1", "up2", "down2"}, {"magnitude"}),
    "lokr": (set[str](), {"w1", "up1", "down1", "w2", "up2", "down2", "magnitude"}),
}
"""Method -> tensors that it must have, and those that it may have besides."""


@dataclass(frozen=True, eq=False)
class ForeignLayer:
    """What stands in the file for one layer."""

    name: str
    """As in the file."""
    method: str
    shape: tuple[int, int]
    """(out, in)"""
    tensors: Mapping[str, Tensor]
    """By our names."""
    by_input: bool = False
    """Whether its magnitudes are those of inputs, as in files of older LyCORIS."""

    @classmethod
    def of(cls, name: str, tensors: Mapping[str, Tensor]) -> ForeignLayer:
        """Sort the tensors of the layer `name`. Raises AdapterFileError if some are missing or do not fit together."""
        method = _method_of(name, set(tensors))
        own = {key.removeprefix("lokr_"): tensor for key, tensor in tensors.items() if key != "alpha"}
        for key, tensor in sorted(own.items()):
            if tensor.ndim != 2 and key != "magnitude":
                raise AdapterFileError(f"{name}: {key} has {tensor.ndim} dimensions, not 2: copy the file again")
            if not tensor.numel():
                raise AdapterFileError(f"{name}: {key} is empty: copy the file again")
        shape = _shape_of(method, own)
        by_input = False
        if "magnitude" in own:
            own["magnitude"], by_input = _magnitude(name, own["magnitude"], shape)
        return cls(name, method, shape, own, by_input)

    @property
    def rank(self) -> int:
        """Inner size of the factors; of LoKr with two whole matrices the least rank that leaves them whole."""
        down = next((self.tensors[key] for key in ("down", "down1", "down2") if key in self.tensors), None)
        if down is not None:
            return down.shape[0]
        return whole_from(*self.tensors["w2"].shape)

    @property
    def whole(self) -> bool:
        """Whether it is a LoKr of two whole matrices, whose alpha LyCORIS and ComfyUI do not apply."""
        return self.tensors.keys() >= {"w1", "w2"}

    def fitted(
        self, alpha: float, rslora: bool, common: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Options of our method and tensors for them. Raises AdapterFileError if no options give these tensors.

        common: what :func:`lokr_split` finds for the layers of the whole file.
        """
        options: dict[str, Any] = {"rank": self.rank, "alpha": alpha, "rslora": rslora}
        tensors = dict(self.tensors)
        if self.method in ("lora", "dora") and self.rank > min(self.shape):  # more than there can be: the same in less
            less = truncated(tensors["up"], tensors["down"], min(self.shape))
            tensors |= {"up": less.up.float().contiguous(), "down": less.down.float().contiguous()}
            options["rank"] = min(self.shape)
            options["alpha"] = alpha * (options["rank"] / self.rank) ** (0.5 if rslora else 1.0)
        own = self._own_options(common)
        if own is not None:
            options |= own
            try:
                with torch.device("meta"):
                    adapter = METHODS[self.method](METHODS[self.method].config_class(**options), *self.shape)
            except ConfigError as error:
                raise AdapterFileError(f"{self.name}: {error}") from None
            if {key: t.shape for key, t in adapter.state_dict().items()} == {k: t.shape for k, t in tensors.items()}:
                return options, tensors
        shapes = ", ".join(f"{key} {'x'.join(map(str, tensor.shape))}" for key, tensor in sorted(tensors.items()))
        raise AdapterFileError(
            f"{self.name}: {shapes} do not fit together as {self.method}: save it again, with another factor"
        )

    def _own_options(self, common: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The method's own options that made these tensors; None if there are none."""
        if self.method == "lora":
            return {}
        own: dict[str, Any] = {"by_input": self.by_input}
        if self.method == "dora":
            return own
        own["weight_decompose"] = "magnitude" in self.tensors
        if self.method == "loha":
            return own
        options = common or lokr_split([self])
        return None if options is None else own | dict(options)


def lokr_split(layers: Sequence[ForeignLayer]) -> dict[str, Any] | None:
    """LoKr's `factor` and `decompose_both` that give the tensors of all these layers; None if there are no such two.

    Many factors may split one layer alike, as -1 and 16 do one of 320x320: only together do layers tell which it was.
    """
    if not layers:
        return None
    kinds = {(layer.shape, layer.rank, frozenset(_sizes(layer.tensors).items())) for layer in layers}
    # No factor is less than what it splits off; those above the roots of all sizes matter only where they divide one.
    least = max(side for layer in layers for side in _matrix(layer.tensors, "1"))
    root = max(math.isqrt(size) for layer in layers for size in layer.shape)
    larger = sorted(side for layer in layers for side in _matrix(layer.tensors, "2"))
    for factor, both in product(dict.fromkeys((-1, *range(least, root + 1), *larger)), (False, True)):
        options = {"factor": factor, "decompose_both": both}
        if all(sizes(LoKrConfig(rank, **options), *shape).items() == found for shape, rank, found in kinds):
            return options
    return None


def _method_of(name: str, roles: set[str]) -> str:
    roles = roles - {"alpha"}
    if any(role in roles for role in ("w1", "w2")) or any(role.startswith("lokr_") for role in roles):
        own = {role.removeprefix("lokr_") for role in roles}
        complete = all(f"w{n}" in own or {f"up{n}", f"down{n}"} <= own for n in "12")
        missing = set() if complete else {"lokr_w1 or lokr_w2"}
        method, extra = "lokr", own - _METHODS["lokr"][1]
    else:
        kinds = ("loha",) if roles & {"up1", "down1", "up2", "down2"} else ("dora", "lora")
        method = next(kind for kind in kinds if kind != "dora" or "magnitude" in roles)
        needed, allowed = _METHODS[method]
        missing, extra = needed - roles, roles - needed - allowed
    if missing or extra:
        what = f"lacks {min(missing)}" if missing else f"has {min(extra)}, which {method} does not"
        raise AdapterFileError(f"{name} {what}: the file is incomplete, copy it again")
    return method


def _shape_of(method: str, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    if method == "lokr":
        (out1, in1), (out2, in2) = _matrix(tensors, "1"), _matrix(tensors, "2")
        return out1 * out2, in1 * in2
    return _product(tensors, "1" if method == "loha" else "")


def _matrix(tensors: Mapping[str, Tensor], number: str) -> tuple[int, int]:
    """Size of a matrix of LoKr's, whole or in factors."""
    if f"w{number}" in tensors:
        rows, columns = tensors[f"w{number}"].shape
        return rows, columns
    return _product(tensors, number)


def _product(tensors: Mapping[str, Tensor], number: str) -> tuple[int, int]:
    return tensors[f"up{number}"].shape[0], tensors[f"down{number}"].shape[1]


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "magnitude"}


def _magnitude(name: str, tensor: Tensor, shape: tuple[int, int]) -> tuple[Tensor, bool]:
    """(out,) and False from (out, 1) or (out,); (in,) and True from (1, in)."""
    if tuple(tensor.shape) in ((shape[0], 1), (shape[0],)):
        return tensor.reshape(-1), False
    if tuple(tensor.shape) == (1, shape[1]):
        return tensor.reshape(-1), True
    size = "x".join(map(str, tensor.shape))
    raise AdapterFileError(f"{name}: the magnitude is {size}, not {shape[0]}x1 or 1x{shape[1]}: copy the file again")
