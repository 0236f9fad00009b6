"""Diffusion objectives as pure functions.

Notation: x0 is a clean latent, e standard normal noise, a = alphas_cumprod[t] (the product of 1 - beta up to
step t), so that x_t = sqrt(a) x0 + sqrt(1 - a) e (Ho et al. 2020, equation 4) and snr = a / (1 - a).
All of them accept a = 0, the last step of a zero-terminal-SNR schedule (Lin et al. 2024). Per-sample
quantities have shape (n,), latents (n, c, h, w).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamtune.models.base import PredictionType
from dreamtune.training.settings import HuberSchedule

DEBIASED_SNR = 1000.0
"""Beyond it debiased estimation weighs nothing less: almost clean pictures would not be trained at all."""


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


def debiased_weight(a: Tensor, prediction_type: PredictionType) -> Tensor:
    """Weight (n,) of each sample's squared error for debiased estimation (Yu et al., arXiv 2310.08442).

    The paper's weight 1/sqrt(snr) is for the error of e, and no less than at snr = 1000, as kohya's sd-scripts have it:
    max(sqrt((1 - a) / a), 1000^-1/2). The error of e is `a` times that of v, so that for v it is the same objective
    with max(sqrt(a (1 - a)), a 1000^-1/2); kohya's 1/(snr + 1) is another one, which weighs the errors of x0 alike. For
    e there is none at a = 0, where snr = 0.
    """
    least = DEBIASED_SNR**-0.5
    if prediction_type == "epsilon":
        return ((1 - a) / a).sqrt().clamp_min(least)
    return torch.maximum((a * (1 - a)).sqrt(), a * least)


def squared_error(prediction: Tensor, goal: Tensor) -> Tensor:
    """Squared error of every number, (n, c, h, w), in fp32 whatever the forward pass ran in."""
    return (prediction.float() - goal.float()).square()


def offset_noise(noise: Tensor, shift: Tensor, amount: float) -> Tensor:
    """Noise e + amount * shift, with a normal shift (n, c) of each channel as a whole.

    Guttenberg 2023, "Diffusion with Offset Noise". Noise that is independent in every cell hardly touches a picture's
    mean, so that a network learns to keep it; with this it can learn dark and bright pictures. The shifted noise is
    also what an epsilon model is to predict.
    """
    return noise + amount * shift[:, :, None, None]


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """A schedule (timesteps,) shifted and scaled so that nothing of the picture is left at its last step.

    Lin et al. 2024, algorithm 1, written in alphas_cumprod: sqrt(a_t)' = (sqrt(a_t) - sqrt(a_T)) sqrt(a_1) /
    (sqrt(a_1) - sqrt(a_T)), which keeps the first step and makes the last one 0. Only for v-prediction: where a = 0,
    e is the input itself and its prediction teaches nothing.
    """
    signal = alphas_cumprod.double().sqrt()
    first, last = signal[0], signal[-1]
    return ((signal - last) * (first / (first - last))).square()


def pseudo_huber(prediction: Tensor, goal: Tensor, c: Tensor) -> Tensor:
    """2 c (sqrt(d^2 + c^2) - c) of every difference d, (n, c, h, w), in fp32; `c` (n,) of each sample.

    Twice the H_c of Khrapov et al. 2024 (arXiv 2403.16728): d^2 where |d| is far less than c, as squared_error, and
    2 c |d| where it is far more, so that outliers pull less.
    """
    difference = prediction.float() - goal.float()
    c = c.to(difference).reshape(-1, *([1] * (difference.dim() - 1)))
    return 2 * c * ((difference.square() + c.square()).sqrt() - c)


def huber_width(c: float, schedule: HuberSchedule, a: Tensor, progress: Tensor) -> Tensor:
    """The c of each sample, (n,): 1 at little noise, where errors are nearly squared, to `c` in (0, 1] at much.

    `a` (n,), and `progress` (n,) from 0 to 1 along the timesteps. "exponential" is c^progress, as in the paper; "snr"
    is (1 - c) / (1 + 1/sqrt(snr))^2 + c, as kohya's sd-scripts have it; "constant" is c everywhere.
    """
    if schedule == "exponential":
        return c**progress
    if schedule == "snr":  # 1 + 1/sqrt(snr) = (sqrt(a) + sqrt(1 - a)) / sqrt(a)
        return (1 - c) * a / (a.sqrt() + (1 - a).sqrt()).square() + c
    return torch.full_like(a, c)


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
