"""A base encodes prompts and pictures, and draws, as the pipeline of diffusers does."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from dreamtune.adapters.parts import holder
from dreamtune.models import Base, load_base


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


def test_a_base_with_a_layer_less_of_its_text_encoder_skips_it(tiny: Path, tmp_path: Path) -> None:
    """As docs/other-trainers.md advises for kohya's clip_skip 2: the state before the last layer, with its norm."""
    deep, skipping = tmp_path / "deep", tmp_path / "skipping"
    shutil.copytree(tiny, deep)
    config = CLIPTextModel.from_pretrained(deep / "text_encoder").config
    config.num_hidden_layers = 2
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPTextModel(config).save_pretrained(deep / "text_encoder")
    shutil.copytree(deep, skipping)
    path = skipping / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    whole, less = load_base(deep, "cpu"), load_base(skipping, "cpu")
    encoder: Any = holder("text_encoder", whole.text_encoder)
    with torch.no_grad():
        numbers = torch.tensor([whole.tokens("a sks dog")["text_encoder"]])
        states = whole.text_encoder(numbers, output_hidden_states=True).hidden_states
        expected = encoder.final_layer_norm(states[-2])[0]
    torch.testing.assert_close(less.condition(["a sks dog"])[0].embedding, expected)
    assert not torch.allclose(whole.condition(["a sks dog"])[0].embedding, expected, atol=1e-2)
