"""A base encodes prompts and pictures, and draws, as the pipeline of diffusers does."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from dreamtune.models import Base


def test_prompts_are_encoded_as_the_pipeline_does(base: Base) -> None:
    prompts = ["a sks dog", "x" * 200]
    expected = base.pipeline().encode_prompt(prompts, torch.device("cpu"), 1, False)[0]
    conditioned = base.condition(prompts)
    assert torch.equal(torch.stack([it.embedding for it in conditioned]), expected)
    assert [it.pooled for it in conditioned] == [None, None]


def test_latents_are_those_of_the_pipeline(base: Base) -> None:
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = base.encode_images(pictures)
    assert latents.shape == (2, 4, 8, 8)
    expected = base.vae.encode(pictures).latent_dist.mode() * base.vae.config["scaling_factor"]  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(latents, expected)


def test_pictures_equal_the_pipelines_own_and_do_not_depend_on_the_batch(base: Base, tiny: Path) -> None:
    settings = {"size": 32, "steps": 3, "guidance": 4.0, "negative_prompt": "cat"}
    together = base.draw(["a dog", "a sks dog"], [7, 8], **settings)
    alone = base.draw(["a sks dog"], [8], **settings)
    torch.testing.assert_close(together[1:], alone)
    reference = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    picture = reference(
        "a sks dog",
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=4.0,
        negative_prompt="cat",
        generator=torch.Generator().manual_seed(8),
    ).images[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert base.to_pictures(alone)[0].tobytes() == picture.tobytes()
