"""SDXL bases: two text encoders, micro-conditioning, and the same operations as any base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import BaseModelError
from dreamtune.models import Base, load_base
from dreamtune.models.conditioning import unet_inputs
from dreamtune.models.published import published_configs
from tests.tiny_models import tiny_checkpoint


@pytest.fixture(scope="module")
def base(tiny_sdxl: Path) -> Base:
    return load_base(tiny_sdxl, device="cpu")


def reference(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_folder_is_loaded_frozen_in_fp32(base: Base) -> None:
    assert (base.id, base.family, base.resolution, base.prediction_type) == ("tiny-xl", "sdxl", 32, "epsilon")
    assert list(base.parts) == ["unet", "text_encoder", "text_encoder_2"]
    for part in (*base.parts.values(), base.vae):
        assert not part.training
        assert all(not p.requires_grad and p.dtype == torch.float32 for p in part.parameters())


def test_prompts_are_encoded_as_the_pipeline_does(base: Base) -> None:
    prompts = ["a sks dog", "x" * 200]
    embeddings, _, pooled, _ = base.pipeline().encode_prompt(prompts, None, torch.device("cpu"), 1, False)
    conditioned = base.condition(prompts)
    assert torch.equal(torch.stack([it.embedding for it in conditioned]), embeddings)
    for found, expected in zip(conditioned, pooled, strict=True):
        assert found.pooled is not None
        assert torch.equal(found.pooled, expected)


def test_unet_takes_what_conditions_it(base: Base) -> None:
    inputs = unet_inputs(base.condition(["a dog", "a cat"]), torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    first = base.unet(x, t, **inputs).sample
    assert first.shape == x.shape
    inputs["added_cond_kwargs"]["time_ids"] = inputs["added_cond_kwargs"]["time_ids"] * 2
    assert not torch.equal(base.unet(x, t, **inputs).sample, first), "the sizes play no part"


@pytest.mark.parametrize("negative", ["", "cat"])
def test_pictures_equal_the_pipelines_own(base: Base, tiny_sdxl: Path, negative: str) -> None:
    """Without a negative prompt the published base is guided away from zeros, not from the empty prompt."""
    drawn = base.draw(["a sks dog"], [8], size=32, steps=3, guidance=4.0, negative_prompt=negative)
    picture = reference(tiny_sdxl)(
        "a sks dog",
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=4.0,
        negative_prompt=negative or None,
        generator=torch.Generator().manual_seed(8),
    ).images[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert base.to_pictures(drawn)[0].tobytes() == picture.tobytes()


def test_single_file_has_the_same_weights(base: Base, tiny_sdxl: Path, tmp_path: Path) -> None:
    single = load_base(tiny_checkpoint(tiny_sdxl, tmp_path / "model.safetensors"), device="cpu")
    assert (single.id, single.family) == ("model.safetensors", "sdxl")
    for name in base.parts:
        expected, found = base.parts[name].state_dict(), single.parts[name].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    prompts = ["a sks dog"]
    for one, other in zip(single.condition(prompts), base.condition(prompts), strict=True):
        assert torch.equal(one.embedding, other.embedding)


def test_refiner_saved_under_the_name_of_a_base(tiny_sdxl: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sdxl, tmp_path / "refiner")
    index = json.loads((tmp_path / "refiner" / "model_index.json").read_text())
    index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    (tmp_path / "refiner" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="is the SDXL refiner"):
        load_base(tmp_path / "refiner", device="cpu")


def test_bf16_base_carries_an_fp32_adapter(tiny_sdxl: Path, base: Base) -> None:
    half = load_base(tiny_sdxl, device="cpu", precision="bf16")
    assert {p.dtype for part in half.parts.values() for p in part.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.vae.parameters()} == {torch.float32}
    inputs = unet_inputs(half.condition(["a dog"]), torch.tensor([[32.0, 32, 0, 0, 32, 32]]))
    with attach(half.unet, LoRAConfig()) as attached:
        with torch.autocast("cpu", torch.bfloat16):
            output = half.unet(torch.randn(1, 4, 8, 8), torch.tensor([500]), **inputs).sample
        output.float().square().mean().backward()
        gradients = [p.grad for p in attached.parameters() if p.grad is not None]
        assert gradients
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
        assert any(g.abs().sum() > 0 for g in gradients)
        file = AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})
    file.attach(base.unet).detach()  # its weights, rounded, are those that it was trained on


def test_v_prediction_with_zero_terminal_snr(tiny_sdxl: Path, tmp_path: Path) -> None:
    """Checkpoints that were trained so sample from the last timestep on, and are trained under the same noise."""
    shutil.copytree(tiny_sdxl, tmp_path / "base")
    place = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    told = published_configs("sdxl", velocity=True, zero_snr=True)["scheduler/scheduler_config.json"]
    place.write_text(json.dumps(told))
    other = load_base(tmp_path / "base", device="cpu")
    assert other.prediction_type == "v_prediction"
    assert other.noise_scheduler().alphas_cumprod[-1] == 0
    drawn = other.draw(["a dog"], [1], size=32, steps=3, guidance=3.0)
    assert drawn.isfinite().all()
    scheduler = other.pipeline().scheduler
    scheduler.set_timesteps(3)
    assert scheduler.timesteps[0] == 999
