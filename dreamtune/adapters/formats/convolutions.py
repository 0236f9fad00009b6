"""Factors of other tools' files as matrices: those of convolutions have four dimensions, and may come in three.

A convolution's ΔW (out, in, kh, kw) is here the matrix (out, in·kh·kw), so that all its factors are matrices too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError

from ..description import MOST_WEIGHTS

Kernel = tuple[int, int]
_CONVOLVES = re.compile(r"(?:^|\.)conv(?:1|2|_in|_out)?$")
"""Paths of layers of Stable Diffusion with a kernel of more than one place; it is 3x3 in all of them."""
_USUAL = (3, 3)
_WITH_KERNEL = {"down", "w2", "change"}
"""Factors that a kernel stands in; of the others with four dimensions it is 1x1."""


def as_matrices(name: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Kernel | None]:
    """The factors of the layer `name` as matrices, and the kernel if they tell one.

    Tucker's form up · mid · down, with `mid` (r, r, kh, kw), becomes up · down with a `down` of the kernel's columns;
    it is the same product. Raises AdapterFileError for sizes that do not fit together.
    """
    tensors, kernels = dict(tensors), set[Kernel]()
    for number in ("", "1", "2"):
        if f"mid{number}" in tensors:
            up, down, kernel = _untuckered(name, tensors, number)
            del tensors[f"mid{number}"]
            tensors |= {f"up{number}": up, f"down{number}": down}
            kernels.add(kernel)
    for key, tensor in sorted(tensors.items()):
        if tensor.ndim == 4:
            kernel = (tensor.shape[2], tensor.shape[3])
            if key in _WITH_KERNEL:
                kernels.add(kernel)
            elif kernel != (1, 1):
                raise AdapterFileError(
                    f"{name}: {key} is {_size(tensor)}, but needs a kernel of 1x1: copy the file again"
                )
            tensors[key] = tensor.flatten(1)
        elif tensor.ndim != 2:
            raise AdapterFileError(f"{name}: {key} has {tensor.ndim} dimensions, not 2 or 4: copy the file again")
    if len(kernels) > 1:
        raise AdapterFileError(f"{name} has kernels of different sizes: copy the file again")
    return tensors, next(iter(kernels), None)


def kernel_at(name: str, path: str, kernel: Kernel | None, columns: int) -> Kernel | None:
    """The kernel of the layer at `path`, None for 1x1, which is the same change as a linear layer's.

    kernel: what the factors tell. Those of LoHa and LoKr do not: they have the kernel's columns, `columns` in all.
    Raises AdapterFileError for a kernel that this layer does not have in any base.
    """
    if not _CONVOLVES.search(path):
        if kernel not in (None, (1, 1)):
            raise AdapterFileError(
                f"{name} has a kernel of {kernel[0]}x{kernel[1]}, which that layer has in no known base"
            )
        return None
    if kernel is None and columns % math.prod(_USUAL) == 0:
        return _USUAL
    return None if kernel == (1, 1) else kernel


def _untuckered(name: str, tensors: Mapping[str, Tensor], number: str) -> tuple[Tensor, Tensor, Kernel]:
    """`up` (out, r), and `down` (r, in·kh·kw) for Σ mid[i, j] down[j], of factors in Tucker's form."""
    mid, up, down = (tensors.get(f"{key}{number}") for key in ("mid", "up", "down"))
    if mid is None or up is None or down is None or mid.ndim != 4:
        raise AdapterFileError(
            f"{name}: a factor of the Tucker decomposition is missing: the file is incomplete, copy it again"
        )
    up, down = up.flatten(1), down.flatten(1)
    if number:  # LyCORIS keeps (r, out) in these, not (out, r)
        up = up.T
    if (up.shape[1], down.shape[0]) != tuple(mid.shape[:2]):
        raise AdapterFileError(f"{name}: mid{number} of {_size(mid)} does not fit the others: copy the file again")
    if mid.shape[0] * down.shape[1] * mid.shape[2] * mid.shape[3] > MOST_WEIGHTS:
        raise AdapterFileError(f"{name}: its factors are larger than any layer of a known base")
    wide = torch.promote_types(mid.dtype, torch.float32)
    product = torch.einsum("ijkl,jn->inkl", mid.to(wide), down.to(wide))
    return up, product.flatten(1), (mid.shape[2], mid.shape[3])


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
