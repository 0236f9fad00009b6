"""Tensors of a layer's adapter in the shapes that other tools keep them in: those of convolutions have four sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from ..description import LayerRecord

_PROJECTION = re.compile(r"attentions\.\d+\.proj_(in|out)$")
_CROSS = re.compile(r"\.attn2\.to_[kv]$")
_SD1_TEXT_WIDTH = 768
_LINEAR_TEXT_WIDTHS = {1024, 2048}


def text_widths(layers: Mapping[str, LayerRecord]) -> set[int]:
    """Sizes of the text's vectors, by the cross-attention's keys and values: 768 is SD 1.x, 1024 2.x, 2048 XL."""
    return {record.shape[1] for path, record in layers.items() if _CROSS.search(path)}


def kernels(layers: Mapping[str, LayerRecord]) -> dict[str, tuple[int, int] | None]:
    """Layer path -> (kh, kw) of the convolution that the layer is in other tools' models; None for a linear one.

    It is the record's, but what a file of another tool says of `proj_in` and `proj_out` may come from the other family:
    1x1 convolutions in SD 1.x, they are linear in 2.x and XL.
    """
    widths = text_widths(layers)
    found: dict[str, tuple[int, int] | None] = {}
    for path, record in layers.items():
        found[path] = record.kernel
        if _PROJECTION.search(path) and record.fingerprint is None and record.kernel in (None, (1, 1)):
            if _SD1_TEXT_WIDTH in widths:
                found[path] = (1, 1)
            elif widths & _LINEAR_TEXT_WIDTHS:
                found[path] = None
    return found


def as_kept(state: Mapping[str, Tensor], kernel: tuple[int, int] | None, by_input: bool = False) -> dict[str, Tensor]:
    """An adapter's state as LyCORIS, ComfyUI and PEFT keep it for a layer with this kernel; without one as it is.

    `down` becomes (r, in, kh, kw), `up` (out, r, 1, 1), `w2` (out₂, in₂, kh, kw) and `change` (out, in, kh, kw). The
    factors of LoHa's and LoKr's products stay matrices of the columns in·kh·kw, as they are there too; so does a `w2`
    whose columns are not whole kernels. `magnitude` becomes (out, 1, ...), or (1, in, ...) `by_input`.
    """
    kept = dict(state)
    if "magnitude" in kept:
        size = (1, -1) if by_input else (-1, 1)
        kept["magnitude"] = kept["magnitude"].reshape(*size, *([] if kernel is None else [1, 1]))
    if kernel is None:
        return kept
    kept = _multiplied_out(kept, math.prod(kernel))
    for name in ("down", "w2", "change"):
        if name in kept and not kept[name].shape[1] % math.prod(kernel):
            kept[name] = kept[name].reshape(kept[name].shape[0], -1, *kernel)
    if "up" in kept:
        kept["up"] = kept["up"][..., None, None]
    return kept


def _multiplied_out(state: dict[str, Tensor], places: int) -> dict[str, Tensor]:
    """LoKr with whole matrices where the others expect them: they compare the rank with channels, not with columns.

    places: kh·kw
    """
    if "down2" not in state:
        return state
    rank, columns = state["down2"].shape
    if columns % places or 2 * rank < max(state["up2"].shape[0], columns // places):
        return state
    for number in "12":
        if f"up{number}" in state:
            state[f"w{number}"] = state.pop(f"up{number}") @ state.pop(f"down{number}")
    return state
