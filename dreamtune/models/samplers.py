"""Samplers by their common names, configured for what a base was trained with."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from torch import Tensor

from dreamtune.errors import ConfigError
from dreamtune.names import AUTO_SAMPLER, SAMPLERS

_LATENT = {"clip_sample": False, "thresholding": False}
"""Latents are not confined to [-1, 1] as pixels are; some of diffusers' classes take them for pixels if not told."""


def make_sampler(name: str, own: Any) -> Any:
    """The sampler `name`, a key of SAMPLERS or AUTO_SAMPLER, for a base that ships the scheduler `own`.

    It is what diffusers makes of the configuration of `own`: betas, prediction type (epsilon or v), zero terminal SNR
    and what else the base sets stay. Raises ConfigError for an unknown name, and for a sampler that has no zero
    terminal SNR where the base needs it.
    """
    if name == AUTO_SAMPLER:
        return type(own).from_config(own.config)
    if name not in SAMPLERS:
        raise ConfigError(f"scheduler = {name!r} must be {AUTO_SAMPLER} or one of {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[name]
    able = [it for it in SAMPLERS if _has_zero_snr(it)]
    if own.config.get("rescale_betas_zero_snr") and name not in able:
        raise ConfigError(
            f"the base was trained with zero terminal SNR, which {name} does not support: use one of {', '.join(able)}"
        )
    latent = {key: value for key, value in _LATENT.items() if key in _arguments(kind)}
    return getattr(diffusers, kind).from_config(own.config, **latent, **options)


def with_zero_snr(own: Any) -> Any:
    """The scheduler `own` with betas rescaled to zero terminal SNR, and steps that begin where no signal is left.

    Lin et al. 2024 (arXiv 2305.08891), sections 3.1 and 3.3. Where its class cannot do that it is DDIM.
    """
    kind = type(own) if "rescale_betas_zero_snr" in _arguments(type(own).__name__) else diffusers.DDIMScheduler
    options: dict[str, Any] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    options |= {key: value for key, value in _LATENT.items() if key in _arguments(kind.__name__)}
    if "use_karras_sigmas" in _arguments(kind.__name__):
        options["use_karras_sigmas"] = False
    return kind.from_config(own.config, **options)


def from_image(pipeline: Any, init: Tensor, noise: Tensor) -> Any:
    """The image-to-image pipeline with the parts of `pipeline`, which begins with the latents `init`, noised.

    init: (1 or n, c, h, w); noise: (n, c, h, w). Whatever it is given for `image` does not count: its own way to
    latents knows VAEs of 4 channels alone.
    """
    found: Any = diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    found.set_progress_bar_config(disable=True)
    found.prepare_latents = lambda image, timestep, *_, **__: found.scheduler.add_noise(
        init.expand_as(noise), noise, timestep
    )
    return found


def _has_zero_snr(name: str) -> bool:
    kind, options = SAMPLERS[name]
    # Karras' noise levels lie between the smallest and the largest, which is infinite there
    return "rescale_betas_zero_snr" in _arguments(kind) and not options.get("use_karras_sigmas")


def _arguments(kind: str) -> set[str]:
    return set(inspect.signature(getattr(diffusers, kind).__init__).parameters)
