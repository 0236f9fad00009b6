"""Making a base from nothing: every stage for a moment, resumed, exported, and read by plain diffusers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dreamtune.pocket.pretrain.config import PretrainConfig
from dreamtune.pocket.pretrain.data import identity
from dreamtune.pocket.pretrain.schedule import Ema, Stage, constant_then_cosine, orthogonalize
from dreamtune.pocket.pretrain.text import read_caption
from dreamtune.pocket.pretrain.tokenizer import new_tokenizer
from dreamtune.pocket.pretrain.traits import COUNT as TRAITS
from dreamtune.pocket.pretrain.traits import traits
from dreamtune.pocket.world import CLASSES, COLORS, vocabulary
from dreamtune.pocket.world.captions import IDENTIFIERS


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_timesteps_are_stratified_and_focused(share: float) -> None:
    from dreamtune.pocket.pretrain.unet import FOCUS, timesteps

    t = timesteps(PretrainConfig(batch_size=1000, focus_share=share), "cpu")
    assert t.shape == (1000,) and t.dtype == torch.long and t.min() >= 0 and t.max() <= 999
    inside = ((t >= FOCUS[0]) & (t < FOCUS[1])).float().mean()
    assert inside == pytest.approx(share + (1 - share) * 0.45, abs=0.01)
    assert (t < 250).float().mean() == pytest.approx((1 - share) * 0.25, abs=0.01)


def test_orthogonalize_brings_singular_values_near_one_and_keeps_the_directions() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (2, 80, 8), (1, 8, 8)):  # both ways of computing it
        u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        sigma = torch.linspace(0.2, 1.0, u.shape[-1])
        out = orthogonalize(u * sigma @ vt)
        values = (u.mT @ out @ vt.mT).diagonal(dim1=1, dim2=2)
        assert values.min() > 0.6
        assert values.max() < 1.3
        assert torch.allclose(u * values[:, None] @ vt, out, atol=0.02)


def test_a_stage_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    weight = torch.nn.Linear(1, 1)
    stage = Stage(tmp_path, 1 / 60, {"w": weight})
    for _ in stage:
        weight.weight.data.fill_(7.0)
        stage.samples += 1
        if stage.step == 3:
            break
    stage.save()
    other = torch.nn.Linear(1, 1)
    again = Stage(tmp_path, 1 / 60, {"w": other})
    assert (again.step, again.samples) == (stage.step, stage.samples)
    assert other.weight.item() == 7.0


def test_the_average_follows_the_parameters() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema = Ema([module], 0.5)
    module.weight.data.fill_(1.0)
    ema.update()
    assert 0 < ema.shadow[0].item() < 1
    average = ema.shadow[0].item()
    ema.swap()
    assert (module.weight.item(), ema.shadow[0].item()) == (average, 1.0)


def test_learning_rate_rises_holds_and_falls() -> None:
    assert constant_then_cosine(0.0, 0, 10) == pytest.approx(0.1)
    assert constant_then_cosine(0.4, 100, 10) == 1.0
    assert constant_then_cosine(1.0, 100, 10, floor=0.03) == pytest.approx(0.03)


def test_every_word_of_the_world_is_one_token_and_any_text_is_read() -> None:
    tokenizer = new_tokenizer(40)
    for word in vocabulary():
        assert len(tokenizer.tokenize(word)) == 1, word
    ids = tokenizer("Ein blaues Haus — naïve café, 日本語 🐶!")["input_ids"]
    assert tokenizer.unk_token_id not in ids[1:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id
    assert len(ids) > 10


def test_a_caption_is_read_as_it_was_meant() -> None:
    slots, place = read_caption(
        "a striped sks red cat wearing a blue hat on the left and a dog with green spots at night"
    )
    names = list(COLORS)
    assert slots[0][:2] == [CLASSES.index("cat"), names.index("red")]
    assert slots[0][2] == 0
    assert slots[0][4] == names.index("blue")
    assert slots[0][5] == 0
    assert slots[1][0] == CLASSES.index("dog")
    assert slots[1][2:4] == [1, names.index("green")]
    assert place == 3
    assert slots[0][7] == IDENTIFIERS.index("sks")
    assert slots[1][7] == len(IDENTIFIERS), "the dog has no identifier"


def test_traits_tell_look_alikes_apart_and_leave_out_what_is_not_there() -> None:
    table = np.stack([traits(identity(number)) for number in range(200)])
    assert table.shape == (200, TRAITS)
    for number in range(0, 200, 2):
        one, other = identity(number), identity(number + 1)
        assert np.isnan(table[number, 9:12]).all() == (one.collar_rgb is None)
        assert np.isnan(table[number, -36:]).all() == (one.pattern != "spotted")
        assert not np.array_equal(table[number], table[number + 1], equal_nan=True)
        assert one.hat is None or np.isclose(table[number, 12:15], table[number + 1, 12:15], atol=0.25).all()
        assert (one.color, one.pattern) == (other.color, other.pattern)
    known = table[np.isfinite(table)]
    assert np.abs(known).max() < 1.2
    spotted = table[[identity(n).pattern == "spotted" for n in range(200)], -36:]
    assert 0.1 < spotted.mean() < 0.6


@pytest.mark.slow
def test_all_stages_make_a_base_that_diffusers_loads(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from dreamtune.pocket.pretrain.__main__ import STAGES, Maker
    from dreamtune.pocket.pretrain.export import export, export_evaluators

    config = replace(
        PretrainConfig(),
        world_pictures=2100,  # whitening looks at 2048
        unet_pictures=128,
        evaluator_pictures=128,
        individuals=48,
        individuals_held_out=4,
        held_out=16,
        text_layers=1,
        unet_channels=(16, 32, 32),
        unet_heads=2,
        batch_size=4,
        minutes=dict.fromkeys(STAGES, 0.02),
    )
    maker = Maker(config, tmp_path / "work", "cpu")
    for stage in STAGES:
        maker.run(stage)
    weights = tmp_path / "weights"
    base = export(maker, weights)
    export_evaluators(maker, weights)
    assert not [file for file in base.rglob("*.json") if str(tmp_path) in file.read_text()]
    pipeline = StableDiffusionPipeline.from_pretrained(base, local_files_only=True).to("cpu", torch.float32)
    picture = pipeline("a red cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]  # pyright: ignore
    assert picture.size == (config.size, config.size)
    attention = [name for name, _ in pipeline.unet.named_modules() if name.endswith("attn2")]
    assert {name.split(".")[0] + name.split(".")[1] for name in attention if name[0] in "du"} == {
        f"{side}_blocks{i}" for side in ("down", "up") for i in range(3)
    }, "cross-attention at every level"
    measured = json.loads((weights / "evaluators" / "evaluation.json").read_text())
    assert set(measured) >= {"reading", "identity", "image_text"}

    spoken = Maker(config, tmp_path / "spoken", "cpu")  # only the words are learned anew
    spoken.start_from(base)
    spoken.run("words")
    same = export(spoken, tmp_path / "weights3")
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (same / name).read_bytes() == (base / name).read_bytes()
    name = "text_encoder/model.safetensors"
    assert (same / name).read_bytes() != (base / name).read_bytes()

    onward = Maker(replace(config, seed=1), tmp_path / "onward", "cpu")  # else both began from the same random values
    onward.start_from(base)
    onward.run("unet")
    onward.run("reader")
    earlier = load_file(weights / "evaluators" / "reader.safetensors")["mix.weight"].float()
    later = torch.load(tmp_path / "onward/reader/model.pt")["mix.weight"]
    assert not torch.allclose(later, earlier, atol=1e-4), "it learns"
    assert F.cosine_similarity(later.flatten(), earlier.flatten(), dim=0) > 0.9, "from where the reader was"
    record = json.loads((export(onward, tmp_path / "weights2") / "training.json").read_text())
    assert record["continued_from"]["stages"]["unet"]["samples"] > 0
