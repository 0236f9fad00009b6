"""What a layer's matrix acts on: a linear layer's inputs, a convolution's patches."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn


def patches(layer: nn.Conv2d, x: Tensor) -> Iterator[Tensor]:
    """The patches (tokens, channels·kh·kw) of x (n, channels, h, w), padded as `layer` pads, a picture at a time.

    They take kh·kw times the memory of x.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    for picture in x.split(1):
        padded = F.pad(picture, layer._reversed_padding_repeated_twice, mode=mode)
        found = F.unfold(padded, _pair(layer.kernel_size), dilation=_pair(layer.dilation), stride=_pair(layer.stride))
        yield found[0].T


def multiplied(layer: nn.Module, x: Tensor, matrix: Tensor) -> Tensor:
    """What `layer`, adapted or not, would make of `x` with `matrix` (k, in): (..., k), or (n, k, h', w')."""
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(x, matrix.unflatten(1, layer.weight.shape[1:]), None)
    return F.linear(x, matrix)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]
