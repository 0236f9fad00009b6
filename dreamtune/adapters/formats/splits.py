"""How LoKr's two matrices divide a layer: in other tools' files they may have any sizes, by a factor or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from torch import Tensor

from ..methods.lokr import LoKrConfig, sizes, whole_from

_MOST_CANDIDATES = 32


def common_split(layers: Sequence[tuple[int, Mapping[str, Tensor]]]) -> dict[str, Any] | None:
    """LoKr's `factor` and `decompose_both` that give the tensors of all these layers; None if there are no such two.

    layers: rank and tensors of each. Many factors may split one layer alike, as -1 and 16 do one of 320x320: only
    together do layers tell which it was. The search is bounded: if none of a few candidates was it, each layer tells
    its own sizes.
    """
    if not layers:
        return None
    kinds = {(_shape(tensors), rank, frozenset(_sizes(tensors).items())) for rank, tensors in layers}
    # A factor is no less than what it splits off, and the largest of those serves wherever a factor below all roots
    # does; one above a root matters only where it divides.
    least = max(side for _, tensors in layers for side in matrix_size(tensors, "1"))
    larger = Counter(side for _, tensors in layers for side in matrix_size(tensors, "2"))
    candidates = dict.fromkeys((-1, least, *(side for side, _ in larger.most_common(_MOST_CANDIDATES))))
    for factor, both in product(candidates, (False, True)):
        options = {"factor": factor, "decompose_both": both}
        if all(sizes(LoKrConfig(rank, **options), *shape).items() == found for shape, rank, found in kinds):
            return options
    return None


def split_as(
    tensors: Mapping[str, Tensor], options: dict[str, Any], common: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """Add LoKr's own options to `options`, which has rank, alpha and rslora, and give the tensors that they mean.

    common: what :func:`common_split` finds for the whole file. The tensors are the file's; but where no options leave a
    matrix whole, or in factors, as the file has it, both are multiplied out, and the scale stays.
    """
    (rows, columns), (out2, in2) = matrix_size(tensors, "1"), matrix_size(tensors, "2")
    own: dict[str, Any] = {"factor": -1, "decompose_both": False, "w1_rows": rows, "w1_columns": columns}
    given: dict[str, Any] = {"w1_rows": 0, "w1_columns": 0, **(common or {})}
    candidates = [given, given | {"w1_columns": columns}] if common else []  # the latter of a convolution
    for candidate in (*candidates, own, own | {"decompose_both": True}):
        if sizes(LoKrConfig(rank=options["rank"], **candidate), *_shape(tensors)).items() == _sizes(tensors).items():
            options |= candidate
            return dict(tensors)
    rank, exponent = whole_from(out2, in2), 0.5 if options["rslora"] else 1.0
    alpha = options["alpha"] * (rank / options["rank"]) ** exponent
    options |= own | {"rank": rank, "alpha": alpha}
    whole = {
        f"w{n}": tensors[f"w{n}"] if f"w{n}" in tensors else tensors[f"up{n}"].float() @ tensors[f"down{n}"].float()
        for n in "12"
    }
    return whole | {name: tensor for name, tensor in tensors.items() if name == "magnitude"}


def matrix_size(tensors: Mapping[str, Tensor], number: str) -> tuple[int, int]:
    """Size of one of LoKr's two matrices, whole or in factors."""
    if f"w{number}" in tensors:
        rows, columns = tensors[f"w{number}"].shape
        return rows, columns
    return product_size(tensors, number)


def product_size(tensors: Mapping[str, Tensor], number: str) -> tuple[int, int]:
    """Size of up @ down."""
    return tensors[f"up{number}"].shape[0], tensors[f"down{number}"].shape[1]


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    (out1, in1), (out2, in2) = matrix_size(tensors, "1"), matrix_size(tensors, "2")
    return out1 * out2, in1 * in2


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "magnitude"}
