"""A frozen convolution and an adapter's change of it, a matrix (out, in·kh·kw), as one operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .linear_function import WHOLE_FLOAT32, compute_dtype

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A layer's convolution of x (n, in, h, w) by a weight (any, in, kh, kw) and a bias (any,): (n, any, h', w')."""


def convolved_by(x: Tensor, matrices: Sequence[Tensor], kernel: torch.Size, convolve: Convolve) -> Tensor:
    """ΔW * x (n, out, h', w') in x's precision, ΔW (out, in·kh·kw) being the product of one or two matrices.

    kernel: (in, kh, kw). Of two, up (out, k) and down (k, in·kh·kw), the second is the convolution, and the first
    mixes its k channels.
    """
    y = convolve(x, matrices[-1].to(x.dtype).unflatten(1, kernel), None)
    for matrix in reversed(matrices[:-1]):
        y = F.conv2d(y, matrix.to(x.dtype)[:, :, None, None])
    return y


def factored_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    up: Tensor,
    down: Tensor,
    convolve: Convolve,
    excess: Tensor | None = None,
) -> Tensor:
    """(1 + excess) ⊙ (W * x) + up·(down * x) + b, (n, out, h', w'), in x's precision, or autocast's.

    x: (n, in, h, w); weight: (out, in, kh, kw) and bias: (out,), which get no gradient; up: (out, k);
    down: (k, in·kh·kw); excess: (out,) in fp32 or better, 0 if left out.
    """
    dtype = compute_dtype(x)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        y = convolve(x, weight, bias)
        change = convolved_by(x, (up, down), weight.shape[1:], convolve)
        if excess is not None:
            own = y if bias is None else y - bias[:, None, None]
            change = change + (own * excess[:, None, None]).to(dtype)
        return y + change


def dense_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, change: Callable[[], Tensor], convolve: Convolve
) -> Tensor:
    """(W + change()) * x + b, (n, out, h', w'), in x's precision, or autocast's.

    x, weight, bias as in :func:`factored_conv`. The change (out, in·kh·kw) is not kept but made again for the backward
    pass, and must then be the same.
    """
    dtype = compute_dtype(x)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            own, shift = weight.to(dtype), None if bias is None else bias.to(dtype)
            ours = change().to(dtype).view(weight.shape)
            if exact_conv(dtype, x.device.type):
                return convolve(x, own + ours, shift)
            return convolve(x, own, shift) + convolve(x, ours, None)

    return checkpoint(run, x.to(dtype), use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


def exact_conv(dtype: torch.dtype, device: str) -> bool:
    """Whether convolutions in `dtype` see the last bits of W + ΔW: see fused.exact; on CUDA TF32 is their default."""
    return dtype == torch.float64 or (dtype == torch.float32 and _whole_float32(device))


@torch.compiler.assume_constant_result
def _whole_float32(device: str) -> bool:
    backend = torch.backends.mkldnn if device == "cpu" else torch.backends.cudnn
    setting = getattr(backend, "conv", None)
    if setting is None:  # torch before 2.9
        return device != "cuda" or not torch.backends.cudnn.allow_tf32
    return setting.fp32_precision in WHOLE_FLOAT32
