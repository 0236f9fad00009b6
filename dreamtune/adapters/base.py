"""The contract of an adapter: one method's exact change ΔW of one frozen weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.errors import ConfigError

from .config import MethodConfig, ParameterOptions
from .conv_function import Convolve, convolved_by, dense_conv, factored_conv
from .linear_function import compute_dtype, dense_linear, factored_linear
from .svd import Svd


class Adapter(nn.Module, ABC):
    """One method on one frozen weight W (out, in); that of a convolution (out, in, kh, kw) is (out, in·kh·kw).

    Live, merged, exported, fused and analyzed results all come from :meth:`delta_weight`; :meth:`low_rank`,
    :meth:`delta_output` and :meth:`layer_output`, for convolutions :meth:`delta_convolved` and :meth:`convolved`, are
    faster ways to the same. What is in `state_dict()` is what the adapter file holds; an adapter made from its config
    and filled with that state is complete, without :meth:`initialize`.
    """

    config_class: ClassVar[type[MethodConfig]]
    partial_gradient: ClassVar[bool] = False
    """Whether the paper leaves a part of ΔW's dependence on the parameters out of the gradient (DoRA's norm)."""
    needs_singular_vectors: ClassVar[bool] = False
    """Whether :meth:`initialize` asks for singular vectors, which take minutes on a large base not seen before."""

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        """Make the tensors, not yet initialized. Raises ConfigError for a rank that the layer cannot have."""
        super().__init__()
        self.config, self.out_features, self.in_features = config, out_features, in_features
        if config.rank > self.max_rank:
            raise ConfigError(
                f"rank = {config.rank} is too high for a layer of {out_features}x{in_features}: "
                f"use at most {self.max_rank}"
            )

    starts_anywhere: ClassVar[bool] = False
    """Whether it can begin at the change of any other adapter, see :meth:`start_at`."""
    scaled_tensor: str | None = None
    """Name of the tensor that the scale alpha/rank multiplies; None if it is not one alone."""

    @property
    def start_rank(self) -> int:
        """The largest rank of a change that it can begin at; 0 if it can only at zero, or at one of its own form."""
        return self.config.rank if self.starts_anywhere else 0

    def start_at(self, weight: Tensor, up: Tensor, down: Tensor) -> None:
        """After initialize: begin at ΔW = up @ down, fp64 (out, k) and (k, in) on the CPU, k ≤ :attr:`start_rank`.

        All of its rank can be trained from there. weight: (out, in) on the CPU.
        """
        raise AssertionError("asked only if starts_anywhere")

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight."""
        return self.out_features, self.in_features

    @property
    def max_rank(self) -> int:
        """The largest rank that the configuration may have on a layer of this shape."""
        return min(self.shape)

    @property
    def uses_weight(self) -> bool:
        """Whether ΔW depends on the weight. If not, `weight` may be on the meta device, without the base."""
        return False

    @abstractmethod
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """Set every tensor so that ΔW is exactly 0; random values come from `generator` (CPU) alone."""

    @abstractmethod
    def delta_weight(self, weight: Tensor) -> Tensor:
        """ΔW (out, in) for the base `weight` (out, in): the definition."""

    def delta_output(self, x: Tensor, weight: Tensor) -> Tensor:
        """ΔW·x (..., out) in x's precision, or autocast's, for x (..., in); with dropout while training."""
        with torch.autocast(x.device.type, enabled=False):  # neither is ever computed in half precision
            matrices = self.low_rank(weight) or (self.delta_weight(weight),)
        x = self.drop(x)
        for matrix in reversed(matrices):
            x = F.linear(x, matrix.to(x.dtype))
        return x

    def layer_output(self, x: Tensor, weight: Tensor, bias: Tensor | None, strength: float) -> Tensor:
        """(W + strength·ΔW) x + b, for x (..., in): a layer whose only adapter this is, at one go.

        weight (out, in) and bias (out,) are frozen: they get no gradient.
        """
        if self.dropping:
            return torch.add(F.linear(x, weight, bias), self.delta_output(x, weight), alpha=strength)
        with torch.autocast(x.device.type, enabled=False):
            factors = self.low_rank(weight)
        if factors is None:
            return dense_linear(x, weight, bias, lambda: scaled(strength, self.delta_weight(weight)))
        up, down = factors
        return factored_linear(x, weight, bias, scaled(strength, up), down)

    def delta_convolved(self, x: Tensor, weight: Tensor, convolve: Convolve) -> Tensor:
        """ΔW * x (n, out, h', w') in x's precision, or autocast's, for x (n, in, h, w) of a convolution, with dropout.

        weight: its base weight (out, in, kh, kw), which counts as the matrix (out, in·kh·kw).
        """
        dtype = compute_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            matrix = self._matrix_of(weight)
            matrices = self.low_rank(matrix) or (self.delta_weight(matrix),)
            return convolved_by(self.drop(x).to(dtype), matrices, weight.shape[1:], convolve)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, strength: float, convolve: Convolve) -> Tensor:
        """(W + strength·ΔW) * x + b: as :meth:`layer_output`, for x and weight of :meth:`delta_convolved`."""
        if self.dropping:
            return torch.add(convolve(x, weight, bias), self.delta_convolved(x, weight, convolve), alpha=strength)
        with torch.autocast(x.device.type, enabled=False):
            matrix = self._matrix_of(weight)
            factors = self.low_rank(matrix)
        if factors is None:
            return dense_conv(x, weight, bias, lambda: scaled(strength, self.delta_weight(matrix)), convolve)
        up, down = factors
        return factored_conv(x, weight, bias, scaled(strength, up), down, convolve)

    def _matrix_of(self, weight: Tensor) -> Tensor:
        """A convolution's weight as a matrix; only its shape where that is enough: of channels last it is a copy."""
        if self.uses_weight or weight.is_contiguous():
            return weight.flatten(1)
        return weight.new_empty(self.shape, device="meta")

    def on_weight(self, weight: Tensor) -> None:
        """Told the base `weight` (out, in) when the adapter comes to a layer, and when that weight changes."""

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """Exact factors of ΔW = up @ down, up (out, k), down (k, in), or None if there are none that are small.

        They come from the adapter's own tensors: `weight` may be on the meta device, when the base is not at hand.
        """
        return None

    def decomposition(self, weight: Tensor) -> Svd | None:
        """The thin singular value decomposition of ΔW in fp64 on the CPU, or None if it is not had by a short way.

        Asked of methods without :meth:`low_rank`, of finite tensors; `weight` may be on the meta device. Singular
        values may be 0.
        """
        return None

    def singular_values(self, weight: Tensor) -> Tensor | None:
        """The singular values of :meth:`decomposition` alone, (k,) in descending order; None where that is None."""
        known = self.decomposition(weight)
        return None if known is None else known.s

    def terms(self, weight: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> factors as of :meth:`low_rank`, of the summands of ΔW where a method has several; none by default."""
        return {}

    def on_step(self, step: int, weight: Tensor) -> str | None:
        """Told before optimizer step `step` (0 for the first), never by anything else. A remark if something happened.

        A parameter may have no gradient until a step that the method chooses, as AdamW then leaves it alone.
        """
        return None

    def note(self) -> str | None:
        """What people should know of its state, if a method has several, in words."""
        return None

    def parameter_options(self) -> dict[str, ParameterOptions]:
        """Parameter name -> how the optimizer is to treat it; the others are treated as usual."""
        return {}

    @property
    def dropping(self) -> bool:
        """Whether dropout acts now: while training, if there is any."""
        return self.training and self.config.dropout > 0

    def drop(self, x: Tensor) -> Tensor:
        """Dropout on the input, while training."""
        return F.dropout(x, self.config.dropout) if self.dropping else x

    def extra_repr(self) -> str:
        """Shape and configuration, shown by print."""
        return f"in={self.in_features}, out={self.out_features}, {self.config}"


def scaled(factor: float, tensor: Tensor) -> Tensor:
    """The product; for 1 the tensor itself, without a copy that the backward pass would have to keep."""
    return tensor if factor == 1 else factor * tensor
