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

WHOLE_FLOAT32 = ("none", "ieee")
"""What torch's `fp32_precision` is where nothing below fp32 is allowed."""


def factored_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, excess: Tensor | None = None
) -> Tensor:
    """(1 + excess) ⊙ (W x) + up·(down·x) + b, (..., out), in x's precision, or autocast's.

    x: (..., in); weight: (out, in) and bias: (out,), which get no gradient; up: (out, k); down: (k, in); excess: (out,)
    in fp32 or better, 0 if left out. What it keeps for the backward pass is x, and down·x where there are fewer tokens
    than `in`; with an excess also the result, which must then not be changed in place (autograd notices).
    """
    dtype = compute_dtype(x)
    x, weight, bias = shared_cast(x, dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    up, down = up.to(dtype), down.to(dtype)  # everything is in autocast's precision now, which then changes nothing
    if excess is None and not exact(dtype):
        # Where GPUs are fast, a layer takes as long as its host needs to launch it: autograd's own operations are
        # launched sooner than those of a Function, in the backward pass above all.
        tokens = x.reshape(-1, x.shape[-1])
        y = F.linear(tokens, weight, bias).addmm_(F.linear(tokens, down), up.T)
        return y.view(*x.shape[:-1], y.shape[-1])
    if excess is not None:
        excess = excess.to(torch.promote_types(dtype, torch.float32))
    merged = exact(dtype) and x.numel() >= x.shape[-1] ** 2
    return _FactoredLinear.apply(x, weight, bias, up, down, excess, merged)


def shared_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype`; layers that get the very same tensor, as an attention's q, k and v do, share one copy of it.

    Under autocast a norm gives fp32, and each layer would make a copy of its own and keep it for the backward pass.
    Only where there is one, and not in a graph that is being recorded, which must make its copy at each run.
    """
    if x.dtype == dtype:
        return x
    recorded = torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    if recorded or not torch.is_grad_enabled() or x.is_inference():
        return x.to(dtype)
    state = (dtype, x.requires_grad, x._version)
    known = getattr(x, "_dreamtune_cast", None)
    if known is None or known[0] != state:
        known = (state, x.to(dtype))
        x._dreamtune_cast = known  # pyright: ignore[reportAttributeAccessIssue]
    return known[1]


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None, change: Callable[[], Tensor]) -> Tensor:
    """(W + change()) x + b, (..., out), in x's precision, or autocast's.

    x, weight, bias as in :func:`factored_linear`. The change (out, in) is not kept but made again for the backward
    pass, and must then be the same.
    """
    dtype = compute_dtype(x)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            own, ours, shift = weight.to(dtype), change().to(dtype), None if bias is None else bias.to(dtype)
            return F.linear(x, own + ours, shift) if exact(dtype) else F.linear(x, own, shift) + F.linear(x, ours)

    return checkpoint(run, x.to(dtype), use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


def kronecker_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, w1: Tensor, up: Tensor, down: Tensor | None
) -> Tensor:
    """(W + w1 ⊗ (up·down)) x + b, (..., out1·out2), in x's precision, which must be `exact`.

    x: (..., in1·in2); weight, bias as in :func:`factored_linear`; w1: (out1, in1); up: (out2, k); down: (k, in2), or
    None for the identity. What it keeps for the backward pass is x.
    """
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        factors = (w1.to(dtype), up.to(dtype), None if down is None else down.to(dtype))
        bias = None if bias is None else bias.to(dtype)
        return _KroneckerLinear.apply(x.to(dtype), weight.to(dtype), bias, *factors)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision that a Linear layer gives its result in: x's, or autocast's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def exact(dtype: torch.dtype) -> bool:
    """Whether products in `dtype` see the last bits of W + ΔW: in half precision or TF32 a small ΔW would be lost."""
    return dtype == torch.float64 or (dtype == torch.float32 and _whole_float32())


@torch.compiler.assume_constant_result
def _whole_float32() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # what torch 2.9 brought, a setting for each backend, is in use, and this one then refuses
        backends = (torch.backends.cuda, torch.backends.mkldnn)
        return all(getattr(backend, "matmul").fp32_precision in WHOLE_FLOAT32 for backend in backends)  # noqa: B009


class _FactoredLinear(Function):
    """For many tokens the changed weight is made, in both passes, and only the gradients of the factors are factored.

    For few tokens, and with an excess in half precision, activations go through the factors, and are scaled, in both
    passes. Either way no change means the bits of the frozen layer.
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
            y = F.linear(tokens, weight, bias)
            if excess is not None:
                y.addcmul_(y if bias is None else y - bias, excess)
            y.addmm_(hidden, up.T)
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
                # In fp32: half precision's products would be beyond its range long before the sums mean nothing.
                wide = grad.to(excess.dtype)
                sums = (wide * y.view(grad.shape)).sum(0) - (up.to(excess.dtype) * grad_up).sum(1)
                if bias is not None:
                    sums -= bias * wide.sum(0)
                gain = 1 + excess
                grad_excess = torch.where(gain == 0, 0, sums / gain)
        return grad_x, None, None, grad_up, grad_down, grad_excess, None


def _combined(weight: Tensor, up: Tensor, down: Tensor, excess: Tensor | None) -> Tensor:
    """(1 + excess) ⊙ W + up @ down, (out, in)."""
    if excess is None:
        return torch.addmm(weight, up, down)
    return (weight * (1 + excess).unsqueeze(1)).addmm_(up, down)


class _KroneckerLinear(Function):
    """The changed weight is made in both passes, which costs little; the factors' gradients never leave rank space."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, w1: Tensor, up: Tensor, down: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, w1, up, down)
        return F.linear(x, _with_kronecker(weight, w1, up, down), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, w1, up, down = ctx.saved_tensors
        (out1, in1), rank = w1.shape, up.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            flat = grad_outputs[0].reshape(-1, weight.shape[0])
            grad = flat.view(-1, out1, up.shape[0]).transpose(0, 1)  # (out1, tokens, out2)
            tokens = x.reshape(-1, in1, weight.shape[1] // in1).transpose(0, 1)  # (in1, tokens, in2)
            # To rank space by one product over all blocks; then blocks come first, so that w1 acts by one product too.
            hidden = tokens if down is None else F.linear(tokens.transpose(0, 1), down).transpose(0, 1)
            hidden = hidden.reshape(in1, -1)  # (in1, tokens·k)
            grad_hidden = F.linear(grad.transpose(0, 1), up.T.contiguous()).transpose(0, 1).reshape(out1, -1)
            grad_w1 = grad_hidden @ hidden.T
            mixed = (w1 @ hidden).view(out1, -1, rank)  # (out1, tokens, k)
            grad_up = (mixed.transpose(1, 2) @ grad).sum(0).T
            grad_down = grad_x = None
            if down is not None:
                grad_down = ((w1.T @ grad_hidden).view(in1, -1, rank).transpose(1, 2) @ tokens).sum(0)
            if ctx.needs_input_grad[0]:
                grad_x = (flat @ _with_kronecker(weight, w1, up, down)).view(x.shape)
        return grad_x, None, None, grad_w1, grad_up, grad_down


def _with_kronecker(weight: Tensor, w1: Tensor, up: Tensor, down: Tensor | None) -> Tensor:
    """W + w1 ⊗ (up @ down), (out, in)."""
    w2 = up if down is None else up @ down
    blocks = weight.reshape(w1.shape[0], w2.shape[0], w1.shape[1], w2.shape[1])
    return torch.addcmul(blocks, w1[:, None, :, None], w2[None, :, None, :]).view(weight.shape)
