"""A frozen Linear layer and an adapter's change as one operation, in forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def factored_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, excess: Tensor | None = None
) -> Tensor:
    """(1 + excess) ⊙ (W x) + up·(down·x) + b, (..., out), in x's precision, or autocast's.

    x: (..., in); weight: (out, in) and bias: (out,), which get no gradient; up: (out, k); down: (k, in); excess: (out,)
    in fp32 or better, 0 if left out. What it keeps for the backward pass is x, and down·x where there are fewer tokens
    than `in`; with an excess also the result, which must then not be changed in place (autograd notices).
    """
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        merged = exact(dtype) and x.numel() >= x.shape[-1] ** 2
        return _FactoredLinear.apply(x.to(dtype), weight, bias, up.to(dtype), down.to(dtype), excess, merged)


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None, change: Callable[[], Tensor]) -> Tensor:
    """(W + change()) x + b, (..., out), in x's precision, or autocast's.

    x, weight, bias as in :func:`factored_linear`. The change (out, in) is not kept but made again for the backward
    pass, and must then be the same.
    """
    dtype = compute_dtype(x)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if exact(dtype):
                return F.linear(x, weight + change(), bias)
            return F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype)) + F.linear(
                x, change().to(dtype)
            )

    return checkpoint(run, x.to(dtype), use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision that a Linear layer gives its result in: x's, or autocast's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def exact(dtype: torch.dtype) -> bool:
    """Whether products in `dtype` see the last bits of W + ΔW: in half precision or TF32 a small ΔW would be lost."""
    return dtype == torch.float64 or (dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest")


class _FactoredLinear(Function):
    """For many tokens the changed weight is made, in both passes, and only the gradients of the factors are factored.

    For few tokens, and in half precision, activations go through the factors, and are scaled, in both passes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        up: Tensor,
        down: Tensor,
        excess: Tensor | None,
        merged: bool,
    ) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])  # (tokens, in)
        hidden = None
        if merged:
            y = F.linear(tokens, _combined(weight, up, down, excess), bias)
        else:
            hidden = tokens @ down.T  # (tokens, k)
            y = F.linear(tokens, weight, bias if excess is None else None)
            if excess is not None:
                y.addcmul_(y, excess)
            y.addmm_(hidden, up.T)
            if excess is not None and bias is not None:
                y += bias
        y = y.view(*x.shape[:-1], weight.shape[0])
        ctx.save_for_backward(x, weight, up, down, hidden, *(() if excess is None else (bias, excess, y)))
        ctx.merged = merged
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, up, down, hidden, *scaled = ctx.saved_tensors
        bias, excess, y = scaled or (None, None, None)
        with torch.autocast(x.device.type, enabled=False):
            grad = grad_outputs[0].reshape(-1, up.shape[0])  # (tokens, out)
            tokens = x.reshape(-1, x.shape[-1])
            hidden = tokens @ down.T if hidden is None else hidden
            # Thin products are several times faster with the thin side's rows contiguous.
            grad_hidden = F.linear(grad, up.T.contiguous())  # (tokens, k)
            grad_up = (hidden.T @ grad).T
            grad_down = grad_hidden.T @ tokens if ctx.needs_input_grad[4] else None
            grad_x = grad_excess = None
            if ctx.needs_input_grad[0]:
                if ctx.merged:
                    grad_x = grad @ _combined(weight, up, down, excess)
                else:
                    grad_x = (grad if excess is None else (grad * (1 + excess)).to(grad.dtype)) @ weight
                    grad_x.addmm_(grad_hidden, down)
                grad_x = grad_x.view(x.shape)
            if excess is not None and y is not None:
                # Σ grad·Wx over the tokens: y without the bias and the factors' part, and without the gain.
                sums = (grad * y.view(grad.shape)).sum(0, dtype=excess.dtype) - (up * grad_up).sum(1)
                if bias is not None:
                    sums -= bias * grad.sum(0)
                gain = 1 + excess
                grad_excess = torch.where(gain == 0, 0, sums / gain)
        return grad_x, None, None, grad_up, grad_down, grad_excess, None


def _combined(weight: Tensor, up: Tensor, down: Tensor, excess: Tensor | None) -> Tensor:
    """(1 + excess) ⊙ W + up @ down, (out, in)."""
    if excess is None:
        return torch.addmm(weight, up, down)
    return (weight * (1 + excess).unsqueeze(1)).addmm_(up, down)
