"""Diffusion objectives as pure functions.

Notation: x0 is a clean latent, e standard normal noise, a = alphas_cumprod[t] (the product of 1 - beta up to
step t), so that x_t = sqrt(a) x0 + sqrt(1 - a) e (Ho et al. 2020, equation 4) and snr = a / (1 - a).
All of them accept a = 0, the last step of a zero-terminal-SNR schedule (Lin et al. 2024). Per-sample
quantities have shape (n,), latents (n, c, h, w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dreamtune.models.base import PredictionType


def add_noise(x0: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    """x_t = sqrt(a) x0 + sqrt(1 - a) e, with `a` (n,) of each sample's timestep."""
    signal, sigma = _coefficients(a, x0)
    return signal * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, a: Tensor, prediction_type: PredictionType) -> Tensor:
    """What the network shall predict: e ("epsilon"), or v = sqrt(a) e - sqrt(1 - a) x0 ("v_prediction").

    v is equation 11 of appendix D of Salimans and Ho 2022.
    """
    if prediction_type == "epsilon":
        return noise
    signal, sigma = _coefficients(a, x0)
    return signal * noise - sigma * x0


def min_snr_weight(a: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Min-SNR-gamma weight (n,) of each sample's squared error (Hang et al. 2023, section 3.4).

    The paper's weight min(snr, gamma) is for predicting x0. In the error of e it is min(snr, gamma) / snr, in
    that of v min(snr, gamma) / (snr + 1). Written in `a` so that neither snr = 0 (a = 0) nor snr = inf (a = 1)
    divides by zero:  min(1, gamma (1 - a) / a)  and  min(a, gamma (1 - a)).
    """
    if prediction_type == "epsilon":
        return (gamma * (1 - a) / a.clamp_min(torch.finfo(a.dtype).tiny)).clamp_max(1)
    return torch.minimum(a, gamma * (1 - a))


def squared_error(prediction: Tensor, goal: Tensor) -> Tensor:
    """Squared error of every number, (n, c, h, w), in fp32 whatever the forward pass ran in."""
    return (prediction.float() - goal.float()).square()


def mean_error(errors: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of each sample's errors (n, c, h, w) over channels and cells, (n,).

    `mask` (n, h, w) weighs the cells: the mean is the sum of mask * error over the sum of the mask, so that a small
    subject counts as much as a large one. A mask without any weight leaves the sample out: its error is 0.
    """
    if mask is None:
        return errors.flatten(1).mean(1)
    weights = mask.to(errors).flatten(1)
    return (errors.mean(1).flatten(1) * weights).sum(1) / weights.sum(1).clamp_min(torch.finfo(weights.dtype).tiny)


def dreambooth_loss(errors: Tensor, subjects: int, prior_weight: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean error of the first `subjects` samples plus `prior_weight` times that of the class samples after them.

    Ruiz et al. 2023, equation 2. Returns (loss, subject part, unweighted prior part or None when no sample is left).
    """
    subject = errors[:subjects].mean()
    if len(errors) == subjects:
        return subject, subject, None
    prior = errors[subjects:].mean()
    return subject + prior_weight * prior, subject, prior


def _coefficients(a: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a) and sqrt(1 - a), shaped and typed to multiply `like`; rounded last, for 1 - a cancels near a = 1."""
    shape = (-1, *([1] * (like.dim() - 1)))
    return a.sqrt().to(like).reshape(shape), (1 - a).sqrt().to(like).reshape(shape)
