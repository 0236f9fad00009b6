"""Samplers by the names that people have for them, made for what a base was trained with."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from torch import Tensor

from ..errors import ConfigError

AUTO = "auto"
"""The sampler that the base ships."""
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Name -> diffusers' class, and what sets it apart."""
_LATENT = {"clip_sample": False, "thresholding": False}
"""Latents are not confined to [-1, 1] as pixels are; some of diffusers' classes take them for pixels if not told."""


def make_sampler(name: str, own: Any) -> Any:
    """The sampler `name`, a key of SAMPLERS or AUTO, for a base that ships the scheduler `own`.

    It is what diffusers makes of the configuration of `own`: betas, prediction type (epsilon or v), zero terminal SNR
    and what else the base sets stay. Raises ConfigError for an unknown name, and for a sampler that has no zero
    terminal SNR where the base needs it.
    """
    if name == AUTO:
        return type(own).from_config(own.config)
    if name not in SAMPLERS:
        raise ConfigError(f"scheduler = {name!r} must be {AUTO} or one of {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[name]
    able = [it for it in SAMPLERS if _has_zero_snr(it)]
    if own.config.get("rescale_betas_zero_snr") and name not in able:
        raise ConfigError(
            f"the base was trained with zero terminal SNR, which {name} cannot do: use one of {', '.join(able)}"
        )
    latent = {key: value for key, value in _LATENT.items() if key in _arguments(kind)}
    return getattr(diffusers, kind).from_config(own.config, **latent, **options)


def begin_at(sampler: Any, steps: int, share: float, init: Tensor, noise: Tensor) -> Tensor:
    """Let `sampler` do only the last `share` of its `steps`, and give what a pipeline is to take for noise then.

    init: latents (1, c, h, w) to start from; noise (n, c, h, w). The steps that are left are those of diffusers'
    image-to-image pipelines, which take pictures of 4 latent channels alone.
    """
    plain = sampler.set_timesteps

    def set_timesteps(count: int, device: torch.device | None = None) -> None:
        plain(count, device=device)
        skipped = (count - int(count * share)) * sampler.order
        sampler.timesteps = sampler.timesteps[skipped:]
        if hasattr(sampler, "set_begin_index"):
            sampler.set_begin_index(skipped)

    sampler.set_timesteps = set_timesteps
    sampler.set_timesteps(steps)
    noisy = sampler.add_noise(init.expand_as(noise), noise, sampler.timesteps[:1].expand(len(noise)))
    return noisy / sampler.init_noise_sigma  # pipelines multiply by it


def _has_zero_snr(name: str) -> bool:
    kind, options = SAMPLERS[name]
    # Karras' noise levels lie between the smallest and the largest, which is infinite there
    return "rescale_betas_zero_snr" in _arguments(kind) and not options.get("use_karras_sigmas")


def _arguments(kind: str) -> set[str]:
    return set(inspect.signature(getattr(diffusers, kind).__init__).parameters)
