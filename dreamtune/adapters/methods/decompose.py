"""Weight decomposition of DoRA (Liu et al., arXiv 2402.09353, eq. 5) around any change D: W' = m ⊙ (W+D)/‖W+D‖.

Norms are of rows, one per output (with `by_input` of columns, one per input, as older LyCORIS has them); m is
`magnitude`, trained, ‖W‖ at first. Everything is written in the growth
t = (‖W+D‖² − ‖W‖²)/‖W‖² and the excess e of the gain m/‖W+D‖ = 1 + e over one, so that nothing cancels and
D = 0, m = ‖W‖ gives ΔW = e⊙W + (1+e)⊙D = 0 exactly.

What `magnitude` starts from is ‖W‖, computed in fp64 and rounded to fp32, whatever the precision and the device of
weight and adapter. The excess measures m from that same rounded number: an adapter begins at exactly zero also where
weight or adapter are converted or moved after it was made. The price is a relative error of m below fp32's resolution,
6e-8, in fp64.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Adapter, MethodConfig, ParameterOptions, scaled
from ..conv_function import Convolve, factored_conv
from ..linear_function import factored_linear

SMALLEST_NORM = 1e-6
"""Rows of zeros count as this long: they have no direction, and start without a change like all others."""


class Decomposable(Adapter):
    """A method whose change D may act through a weight decomposition; `magnitude` (out,) is then a parameter.

    By input it is (in,); the layer then always computes with W + ΔW as a whole.

    Dropout concerns ΔW as a whole, the magnitude's part of it too, as in PEFT: with dropout, as with several live
    adapters on the layer, ΔW is formed and costs a second product with the weight's shape.
    """

    magnitude: nn.Parameter | None
    norms: Tensor | None

    def __init__(
        self, config: MethodConfig, out_features: int, in_features: int, *, decompose: bool, by_input: bool = False
    ) -> None:
        super().__init__(config, out_features, in_features)
        self.by_input = by_input
        size = in_features if by_input else out_features
        self.magnitude = nn.Parameter(torch.empty(size)) if decompose else None
        self.register_buffer("norms", None, persistent=False)  # ‖W‖ of the layer's weight, which all steps share

    @property
    def uses_weight(self) -> bool:
        """As the decomposition does."""
        return self.magnitude is not None

    @abstractmethod
    def change(self) -> Tensor:
        """D (out, in), from the trained factors alone."""

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Exact factors of D = up @ down, up (out, k), down (k, in), or None if there are none that are small.

        No products, which autocast would compute in half precision.
        """
        return None

    @torch.no_grad()
    def initialize_magnitude(self, weight: Tensor) -> None:
        """Set m = ‖W‖, if there is an m: the part of `initialize` that all these methods share."""
        if self.magnitude is not None:
            self.magnitude.copy_(row_norms(self._sided(weight)).float())

    @torch.no_grad()
    def start_magnitude(self, weight: Tensor, change: Tensor) -> None:
        """Set m = ‖W + D‖, if there is an m, for D = `change` (out, in): ΔW is then D."""
        if self.magnitude is not None:
            self.magnitude.copy_(row_norms(self._sided(weight.double() + change)))

    def delta_weight(self, weight: Tensor) -> Tensor:
        """D, or with a decomposition m ⊙ (W+D)/‖W+D‖ − W."""
        change = self.change()
        if self.magnitude is None:
            return change
        weight, change = self._sided(weight.to(torch.promote_types(weight.dtype, change.dtype))), self._sided(change)
        norms = row_norms(weight)
        growth = ((2 * weight + change) * change).detach().sum(1) / norms.square()
        excess = gain_excess(self.magnitude, norms, growth).unsqueeze(1)
        return self._sided(excess * weight + (1 + excess) * change)

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """The factors of D if that is ΔW; with a decomposition ΔW has full rank."""
        return self.factors() if self.magnitude is None else None

    def layer_output(self, x: Tensor, weight: Tensor, bias: Tensor | None, strength: float) -> Tensor:
        """Also with a decomposition by D's factors, where it has them: neither D nor ΔW is formed for the norm."""
        parts = self._decomposed(x, weight, strength)
        if parts is None:
            return super().layer_output(x, weight, bias, strength)
        up, down, excess = parts
        return factored_linear(x, weight, bias, up, down, excess)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, strength: float, convolve: Convolve) -> Tensor:
        """Likewise."""
        parts = None if self.magnitude is None else self._decomposed(x, weight.flatten(1), strength)
        if parts is None:
            return super().convolved(x, weight, bias, strength, convolve)
        up, down, excess = parts
        return factored_conv(x, weight, bias, up, down, convolve, excess)

    def _decomposed(self, x: Tensor, weight: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """Factors of (1 + e)⊙D, and the excess e, both times the strength; None where that is not the way."""
        factors = self.factors()
        if self.magnitude is None or self.norms is None or self.by_input or self.dropping or factors is None:
            return None
        with torch.autocast(x.device.type, enabled=False):
            up, down = factors
            excess = gain_excess(self.magnitude, self.norms, growth_of_factors(weight, self.norms, up, down))
            return scaled(strength, (1 + excess).unsqueeze(1) * up), down, scaled(strength, excess)

    def parameter_options(self) -> dict[str, ParameterOptions]:
        """`magnitude` is not pulled towards 0: it begins as ‖W‖, and the base would shrink with it."""
        return {} if self.magnitude is None else {"magnitude": ParameterOptions(weight_decay=False)}

    def on_weight(self, weight: Tensor) -> None:
        """Compute the norms."""
        if self.magnitude is not None:
            self.norms = row_norms(self._sided(weight))

    def _sided(self, matrix: Tensor) -> Tensor:
        """The matrix (out, in) with what the magnitudes belong to as its rows; applied twice, the matrix itself."""
        return matrix.T if self.by_input else matrix


def row_norms(weight: Tensor) -> Tensor:
    """‖W‖ of every row, (out,), computed in fp64 and given in fp32, for a fp64 weight in fp64."""
    weight = weight.detach()
    where = "cpu" if weight.device.type == "mps" else weight.device  # which has no fp64
    norms = torch.linalg.vector_norm(weight.to(where), dim=1, dtype=torch.float64).clamp_min(SMALLEST_NORM)
    return norms.to(torch.promote_types(weight.dtype, torch.float32)).to(weight.device)


@torch.no_grad()
def growth_of_factors(weight: Tensor, norms: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The growth t of every row, (out,), for D = up @ down, up (out, k), down (k, in), in their precision.

    ‖W+D‖² − ‖W‖² = Σ up ⊙ (2·W downᵀ + up (down downᵀ)) over k, in O((out·in + (out + in)·k)·k).
    """
    # Thin products are faster with the thin side's rows contiguous.
    overlap = F.linear(down, weight.to(down.dtype)).T  # (out, k)
    return torch.linalg.vecdot(up, torch.addmm(overlap, up, down @ down.T, beta=2)) / norms.square()


def gain_excess(magnitude: Tensor, norms: Tensor, growth: Tensor) -> Tensor:
    """m/‖W+D‖ − 1 of every row, (out,), in growth's precision; its gradient reaches m alone (the paper's section 4.3).

    norms: as `row_norms` gives them; growth: t, which has no gradient.
    """
    root = (1 + growth).clamp_min(torch.finfo(growth.dtype).tiny).sqrt()  # ‖W+D‖/‖W‖
    relative = (magnitude - norms.float()) / norms
    return (relative - growth / (1 + root)) / root
