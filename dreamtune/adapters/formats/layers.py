"""One layer of another tool's file, as an adapter of ours: which method, which options, which tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError, ConfigError

from ..delta import Delta
from ..description import MOST_WEIGHTS
from ..methods import METHODS
from ..methods.lokr import whole_from
from .convolutions import Kernel, as_matrices, kernel_at
from .splits import matrix_size, product_size, split_as

_METHODS = {
    "lora": ({"up", "down"}, {"mid"}),
    "dora": ({"up", "down", "magnitude"}, {"mid"}),
    "loha": ({"up1", "down1", "up2", "down2"}, {"mid1", "mid2", "magnitude"}),
    "lokr": (set[str](), {"w1", "up1", "down1", "w2", "up2", "down2", "mid2", "magnitude"}),
    "full": ({"change"}, set[str]()),
}
"""Method -> tensors that it must have, and those that it may have besides."""
_SIGNED = ("up", "up1", "w1")
"""Tensors that a negative alpha turns around; each method but `full`, which has no alpha, has one of them."""


class MagnitudesOfChannels(AdapterFileError):
    """A convolution whose magnitudes are those of input channels, as in files of older LyCORIS: it has no form here."""


@dataclass(frozen=True, eq=False)
class ForeignLayer:
    """What stands in the file for one layer."""

    name: str
    """As in the file."""
    method: str
    shape: tuple[int, int]
    """(out, in), of a convolution (out, in·kh·kw)."""
    kernel: Kernel | None
    tensors: Mapping[str, Tensor]
    """By our names; matrices."""
    by_input: bool = False
    """Whether its magnitudes are those of inputs, as in files of older LyCORIS."""

    @classmethod
    def of(cls, name: str, path: str, tensors: Mapping[str, Tensor]) -> ForeignLayer:
        """Sort the tensors of the layer `name` at `path`.

        Raises AdapterFileError if some are missing, hold NaN or do not fit together, or if the layer is too large.
        """
        peft = "peft_magnitude" in tensors
        own = {key.removeprefix("lokr_").removeprefix("peft_"): t for key, t in tensors.items() if key != "alpha"}
        if len(own) + ("alpha" in tensors) < len(tensors):
            raise AdapterFileError(f"{name} has tensors of several methods: save it again with one")
        method = _method_of(name, set(own), lokr=any(key.startswith("lokr_") or key in ("w1", "w2") for key in tensors))
        for key, tensor in sorted(own.items()):
            _check(name, key, tensor)
        magnitude = own.pop("magnitude", None)
        own, kernel = as_matrices(name, own)
        for number in ("", "1", "2"):
            up, down = own.get(f"up{number}"), own.get(f"down{number}")
            if up is not None and down is not None and up.shape[1] != down.shape[0]:
                raise AdapterFileError(_unfitting(name, method, own))
        shape = _shape_of(name, method, own)
        kernel = kernel_at(name, path, kernel, shape[1])
        by_input = False
        if magnitude is not None:
            own["magnitude"], by_input = _magnitude(name, magnitude, shape, kernel, peft)
        return cls(name, method, shape, kernel, own, by_input)

    @property
    def rank(self) -> int:
        """Inner size of the factors; of LoKr with two whole matrices the least rank that leaves them whole."""
        down = next((self.tensors[key] for key in ("down", "down1", "down2") if key in self.tensors), None)
        if down is not None:
            return down.shape[0]
        return whole_from(*self.tensors["w2"].shape) if self.method == "lokr" else 1

    @property
    def whole(self) -> bool:
        """Whether it is a LoKr of two whole matrices, whose alpha LyCORIS and ComfyUI do not apply, or has no alpha."""
        return self.method == "full" or self.tensors.keys() >= {"w1", "w2"}

    def fitted(
        self, alpha: float, rslora: bool, common: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Options of our method and tensors for them. Raises AdapterFileError if no options give these tensors.

        alpha: may be negative. common: what common_split finds for the layers of the whole file.
        """
        options: dict[str, Any] = {"rank": self.rank, "alpha": abs(alpha), "rslora": rslora}
        tensors = dict(self.tensors)
        if alpha < 0:
            key = next(key for key in _SIGNED if key in tensors)
            tensors[key] = -tensors[key]
        most = min(self.shape)
        if self.method in ("lora", "dora", "loha") and self.rank > most:  # more than there can be: the same in less
            for number in ("1", "2") if self.method == "loha" else ("",):
                less, _ = Delta(tensors[f"up{number}"].double(), tensors[f"down{number}"].double()).truncated(most)
                tensors |= {
                    f"up{number}": less.up.float().contiguous(),
                    f"down{number}": less.down.float().contiguous(),
                }
            options["rank"] = most
            options["alpha"] *= (most / self.rank) ** (0.5 if rslora else 1.0)
        options |= {"by_input": self.by_input} if self.method not in ("lora", "full") else {}
        options |= {"weight_decompose": "magnitude" in tensors} if self.method in ("loha", "lokr") else {}
        if self.method == "lokr":
            tensors = split_as(tensors, options, common)
        try:
            with torch.device("meta"):
                adapter = METHODS[self.method](METHODS[self.method].config_class(**options), *self.shape)
        except ConfigError as error:
            raise AdapterFileError(f"{self.name}: {error}") from None
        if {key: t.shape for key, t in adapter.state_dict().items()} == {k: t.shape for k, t in tensors.items()}:
            return options, tensors
        raise AdapterFileError(_unfitting(self.name, self.method, tensors))


def _method_of(name: str, roles: set[str], lokr: bool) -> str:
    if lokr:
        complete = all(f"w{n}" in roles or {f"up{n}", f"down{n}"} <= roles for n in "12")
        missing = set() if complete else {"lokr_w1 or lokr_w2"}
        method, extra = "lokr", roles - _METHODS["lokr"][1]
    else:
        pairs = {"up1", "down1", "up2", "down2"}
        method = (
            "loha" if roles & pairs else "full" if "change" in roles else "dora" if "magnitude" in roles else "lora"
        )
        needed, allowed = _METHODS[method]
        missing, extra = needed - roles, roles - needed - allowed
    if missing or extra:
        what = f"lacks {min(missing)}" if missing else f"has {min(extra)}, which {method} does not"
        raise AdapterFileError(f"{name} {what}: the file is incomplete, copy it again")
    return method


def _unfitting(name: str, method: str, tensors: Mapping[str, Tensor]) -> str:
    shapes = ", ".join(f"{key} {'x'.join(map(str, tensor.shape))}" for key, tensor in sorted(tensors.items()))
    return f"{name}: {shapes} do not fit together as {method}: copy the file again"


def _check(name: str, key: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise AdapterFileError(f"{name}: {key} is of type {tensor.dtype}: copy the file again")
    if not tensor.numel():
        raise AdapterFileError(f"{name}: {key} is empty: copy the file again")
    if not tensor.float().isfinite().all():
        raise AdapterFileError(f"{name}: {key} contains NaN or infinity: train it again with a lower learning rate")


def _shape_of(name: str, method: str, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    if method == "lokr":
        (out1, in1), (out2, in2) = matrix_size(tensors, "1"), matrix_size(tensors, "2")
        shape = out1 * out2, in1 * in2
    elif method == "full":
        shape = tensors["change"].shape[0], tensors["change"].shape[1]
    else:
        shape = product_size(tensors, "1" if method == "loha" else "")
    if math.prod(shape) > MOST_WEIGHTS:
        raise AdapterFileError(f"{name} is {shape[0]}x{shape[1]}, larger than any layer of a known base")
    return shape


def _magnitude(
    name: str, tensor: Tensor, shape: tuple[int, int], kernel: Kernel | None, peft: bool
) -> tuple[Tensor, bool]:
    """(out,) and False from (out,), (out, 1) or (out, 1, 1, 1), of PEFT also (1, out, 1, 1).

    (in,) and True from (1, in) or (1, in, 1, 1).
    """
    size = tuple(tensor.shape)
    while len(size) > 2 and size[-1] == 1:
        size = size[:-1]
    if size in ((shape[0], 1), (shape[0],)) or (peft and size == (1, shape[0])):
        return tensor.reshape(-1), False
    if kernel is not None and size == (1, shape[1] // math.prod(kernel)):
        raise MagnitudesOfChannels(f"{name}: its magnitudes are per input channel, which is not supported")
    if size == (1, shape[1]):
        return tensor.reshape(-1), True
    shown = "x".join(map(str, tensor.shape))
    raise AdapterFileError(f"{name}: the magnitude is {shown}, not {shape[0]}x1 or 1x{shape[1]}: copy the file again")
