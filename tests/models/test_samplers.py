"""Samplers by name keep what the base was trained with, and start from a picture as diffusers does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

from dreamtune.errors import ConfigError
from dreamtune.models import load_base
from dreamtune.models.samplers import make_sampler, with_zero_snr
from dreamtune.names import AUTO_SAMPLER, SAMPLERS

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = DDIMScheduler(
    **BETAS,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
)


@pytest.mark.parametrize("name", SAMPLERS)
def test_betas_and_v_prediction_are_the_bases(name: str) -> None:
    own = DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False)
    sampler = make_sampler(name, own)
    sampler.set_timesteps(4)
    assert sampler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(sampler.betas, own.betas)
    assert len(sampler.timesteps) >= 4


@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_is_kept_or_the_sampler_refused(name: str) -> None:
    try:
        sampler = make_sampler(name, ZERO_SNR)
    except ConfigError as error:
        assert name in ("pndm", "heun", "deis", "dpm++2m-karras")
        assert f"zero terminal SNR, which {name} does not support: use one of ddim, ddpm, euler" in str(error)
        return
    sampler.set_timesteps(4)
    assert float(sampler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    assert int(sampler.timesteps[0]) == 999, "the first step begins where there is no signal at all"


def test_latents_are_not_clipped_as_pixels_are() -> None:
    own = PNDMScheduler(**BETAS, skip_prk_steps=True)  # says nothing of it; the default of DDIM is to clip
    assert make_sampler("ddim", own).config.clip_sample is False
    assert make_sampler("dpm++2m", own).config.thresholding is False


def test_auto_is_the_bases_own_and_unknown_names_are_refused() -> None:
    own = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
    found = make_sampler(AUTO_SAMPLER, own)
    assert found is not own and found.config == own.config
    with pytest.raises(ConfigError, match="scheduler = 'eulr' must be auto or one of ddim, ddpm"):
        make_sampler("eulr", own)


SETTINGS: dict[str, Any] = {"size": 32, "steps": 5, "guidance": 3.0}


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "heun"])
def test_from_a_picture_as_diffusers_does(tiny: Path, name: str) -> None:
    base = load_base(tiny, "cpu")
    init = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    told = list[tuple[int, int]]()
    found = base.draw(
        ["a dog"],
        [3],
        **SETTINGS,
        scheduler=name,
        init=init,
        denoise=0.6,
        on_step=lambda step, steps: told.append((step, steps)),
    )
    pipeline = StableDiffusionImg2ImgPipeline(**base.pipeline().components, requires_safety_checker=False)
    pipeline.scheduler = make_sampler(name, base.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(3)]
    options: dict[str, Any] = {"strength": 0.6, "generator": generator, "output_type": "latent", "return_dict": False}
    expected = pipeline("a dog", init, num_inference_steps=5, guidance_scale=3.0, **options)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)
    assert told == [(step, len(told)) for step in range(len(told))] and len(told) == (3 if name != "heun" else 5)


def test_from_a_picture_on_sdxl(tiny_sdxl: Path) -> None:
    base = load_base(tiny_sdxl, "cpu")
    init = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    pipeline = StableDiffusionXLImg2ImgPipeline(**base.pipeline().components)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(3)]
    options: dict[str, Any] = {"strength": 0.6, "generator": generator, "output_type": "latent", "return_dict": False}
    expected = pipeline("a dog", image=init, num_inference_steps=5, guidance_scale=3.0, **options)
    found = base.draw(["a dog"], [3], **SETTINGS, init=init, denoise=0.6)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)


def test_samplers_that_add_noise_begin_with_that_of_the_seed_and_go_on_from_it(tiny: Path) -> None:
    base = load_base(tiny, "cpu")
    pipeline = base.pipeline()
    pipeline.scheduler = make_sampler("euler-a", base.scheduler)
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(3), "output_type": "latent"}
    expected = pipeline("a dog", 32, 32, num_inference_steps=5, guidance_scale=3.0, **options).images
    found = base.draw(["a cat", "a dog"], [2, 3], **SETTINGS, scheduler="euler-a")
    torch.testing.assert_close(found[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        (PNDMScheduler(**BETAS, skip_prk_steps=True, prediction_type="v_prediction"), "DDIMScheduler"),
        (EulerDiscreteScheduler(**BETAS, use_karras_sigmas=True), "EulerDiscreteScheduler"),
    ],
    ids=("pndm", "euler"),
)
def test_zero_terminal_snr_is_given_to_any_scheduler(own: Any, kind: str) -> None:
    """One that cannot have it becomes DDIM."""
    sampler = with_zero_snr(own)
    assert type(sampler).__name__ == kind
    assert sampler.config.prediction_type == own.config.prediction_type
    assert not sampler.config.get("clip_sample")
    assert not sampler.config.get("use_karras_sigmas")
    sampler.set_timesteps(4)
    assert float(sampler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    assert int(sampler.timesteps[0]) == 999
