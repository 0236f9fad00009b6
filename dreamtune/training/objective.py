"""The training objective: the base's own, with the variations that the user chose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamtune.errors import ConfigError
from dreamtune.models.base import PredictionType
from dreamtune.training import losses
from dreamtune.training.batches import MicroBatchPart
from dreamtune.training.config import TrainConfig
from dreamtune.training.settings import HuberSchedule


@dataclass(frozen=True)
class Objective:
    """What the base was trained to predict, and under which noise."""

    alphas_cumprod: Tensor
    """(timesteps,)"""
    prediction_type: PredictionType
    snr_gamma: float | None = None
    """See losses.min_snr_weight."""
    noise_offset: float = 0.0
    """See losses.offset_noise."""
    huber_c: float | None = None
    """See losses.huber_width; None for squared errors."""
    huber_schedule: HuberSchedule = "snr"
    debiased: bool = False
    """See losses.debiased_weight."""
    timestep_min: int = 0
    """The first that is trained."""
    timestep_max: int | None = None
    """The first after it that is not; none leaves out nothing."""

    @classmethod
    def of(cls, alphas_cumprod: Tensor, prediction_type: PredictionType, config: TrainConfig) -> Objective:
        """The base's objective with what `config` changes in it. Raises ConfigError where that makes no sense."""
        if config.zero_terminal_snr and prediction_type != "v_prediction":
            raise ConfigError(
                f"zero_terminal_snr needs a v-prediction base, this one predicts {prediction_type}: turn it off"
            )
        if config.debiased and prediction_type == "epsilon" and float(alphas_cumprod.min()) == 0:
            raise ConfigError(
                "debiased has no weight for the last timestep of this base, which is pure noise and predicts epsilon: "
                "turn it off"
            )
        for name, value, most in (
            ("timestep_min", config.timestep_min, len(alphas_cumprod) - 1),
            ("timestep_max", config.timestep_max, len(alphas_cumprod)),
        ):
            if value is not None and value > most:
                raise ConfigError(
                    f"{name} = {value} is beyond the base's {len(alphas_cumprod)} timesteps: use at most {most}"
                )
        return cls(
            losses.zero_terminal_snr(alphas_cumprod) if config.zero_terminal_snr else alphas_cumprod,
            prediction_type,
            config.snr_gamma,
            config.noise_offset,
            config.huber_c,
            config.huber_schedule,
            config.debiased,
            config.timestep_min,
            config.timestep_max,
        )

    @property
    def timesteps(self) -> range:
        """Those that are trained."""
        return range(len(self.alphas_cumprod))[self.timestep_min : self.timestep_max]

    def noise(self, part: MicroBatchPart) -> Tensor:
        """The noise (n, c, h, w) that is put on a draw's pictures."""
        return losses.offset_noise(part.noise, part.shift, self.noise_offset) if self.noise_offset else part.noise

    def alphas(self, timesteps: Tensor) -> Tensor:
        """alphas_cumprod (n,) at `timesteps` (n,), on the CPU and in fp64: 1 - a loses digits where a is near 1."""
        return self.alphas_cumprod.double()[timesteps]

    def errors(self, prediction: Tensor, goal: Tensor, timesteps: Tensor, mask: Tensor | None) -> Tensor:
        """Error of each sample (n,), fp32; latents (n, c, h, w), `timesteps` (n,) on the CPU, mask (n, h, w)."""
        a = self.alphas(timesteps)
        if self.huber_c is None:
            errors = losses.squared_error(prediction, goal)
        else:
            progress = timesteps.double() / (len(self.alphas_cumprod) - 1)
            width = losses.huber_width(self.huber_c, self.huber_schedule, a, progress)
            errors = losses.pseudo_huber(prediction, goal, width)
        means = losses.mean_error(errors, mask)
        if self.debiased:
            return means * losses.debiased_weight(a, self.prediction_type).to(means)
        if self.snr_gamma is None:
            return means
        return means * losses.min_snr_weight(a, self.snr_gamma, self.prediction_type).to(means)
