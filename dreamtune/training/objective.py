"""What a training minimises: the base's own objective, with the variations that the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dreamtune.training import losses

if TYPE_CHECKING:
    from dreamtune.models.base import PredictionType


@dataclass(frozen=True)
class Objective:
    """What the base was trained to predict, and under which noise."""

    alphas_cumprod: Tensor
    """(timesteps,)"""
    prediction_type: PredictionType
    snr_gamma: float | None = None

    def alphas(self, timesteps: Tensor) -> Tensor:
        """alphas_cumprod (n,) at `timesteps` (n,), on the CPU and in fp64: 1 - a loses digits where a is near 1."""
        return self.alphas_cumprod.double()[timesteps]

    def errors(self, prediction: Tensor, goal: Tensor, timesteps: Tensor, mask: Tensor | None) -> Tensor:
        """Error of each sample (n,), fp32; latents (n, c, h, w), `timesteps` (n,) on the CPU, mask (n, h, w)."""
        errors = losses.mean_error(losses.squared_error(prediction, goal), mask)
        if self.snr_gamma is None:
            return errors
        weight = losses.min_snr_weight(self.alphas(timesteps), self.snr_gamma, self.prediction_type)
        return errors * weight.to(errors)
