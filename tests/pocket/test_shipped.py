"""The weights that are shipped: what they must reach, by the record and by a look of our own."""

import json
from random import Random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from dreamtune.pocket import WEIGHTS, path
from dreamtune.pocket.evaluate import draw, fixed_prompts, score
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.evaluators.evaluators import to_array
from dreamtune.pocket.world import CLASSES, CONTEXTS, caption, random_scene, random_subject, render

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def evaluators() -> Evaluators:
    return Evaluators.load()


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(path(), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cpu", torch.float32)


def test_the_base_fits_its_budget_and_is_safetensors_only() -> None:
    files = [file for file in path().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 45 * MEBIBYTE
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_record_reaches_what_a_shipped_base_must() -> None:
    base = json.loads((WEIGHTS / "base" / "evaluation.json").read_text())
    shares, psnr = base["shares"], base["vae_psnr"]
    assert base["prompts"] == 400
    assert shares["context"] >= 0.90
    assert shares["class"] >= 0.60
    assert shares["color"] >= 0.60
    assert min(psnr.values()) >= 27


def test_cross_attention_at_every_level(pipeline: StableDiffusionPipeline) -> None:
    unet = pipeline.unet
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        assert [name for name, _ in block.named_modules() if name.endswith("attn2")]


@pytest.mark.parametrize("text", ["a photo of my grandmother's bicycle, 35mm!", "naïve Zoë — 日本語 🐕", "", "x" * 500])
def test_any_prompt_tokenizes(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(path() / "tokenizer", local_files_only=True)
    ids = tokenizer(text, padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == tokenizer.model_max_length
    assert max(ids) < len(tokenizer)


@pytest.mark.slow
def test_base_draws_what_prompts_say(pipeline: StableDiffusionPipeline, evaluators: Evaluators) -> None:
    classes = json.loads((path() / "training.json").read_text())["config"]["classes"]
    prompts = fixed_prompts(classes)[:24]
    shares = score(prompts, evaluators.read(draw(pipeline, [p.text for p in prompts], seed=77)))
    assert shares["context"] >= 0.8
    assert shares["class"] >= 0.5
    assert shares["color"] >= 0.5


def test_evaluators_read_fresh_renders(evaluators: Evaluators) -> None:
    rng = Random("fresh renders")
    scenes = [random_scene(rng) for _ in range(120)]
    readings = evaluators.read(np.stack([render(scene).image for scene in scenes]))
    pairs = list(zip(scenes, readings, strict=True))
    assert np.mean([scene.context == reading.context for scene, reading in pairs]) >= 0.95
    assert np.mean([len(scene.subjects) == len(reading.subjects) for scene, reading in pairs]) >= 0.95
    alone = [(scene.subjects[0], reading.main) for scene, reading in pairs if len(scene.subjects) == 1]
    assert np.mean([subject.cls == found.cls for subject, found in alone]) >= 0.9
    assert np.mean([subject.color in found.colors for subject, found in alone]) >= 0.85


def test_identity_tells_individuals_apart_in_any_context(evaluators: Evaluators) -> None:
    rng = Random("individuals")
    subjects = [random_subject(rng, CLASSES[i % 12]) for i in range(16)]
    views = [
        [render(random_scene(rng, [s], context, "mid", "center")).image for context in list(CONTEXTS)[k : k + 5]]
        for s in subjects
        for k in (0, 5)
    ]
    means = torch.stack([evaluators.identity(np.stack(v)).mean(0) for v in views])
    first, second = means[0::2], means[1::2]
    assert (first @ second.T).argmax(1).tolist() == list(range(16))


def test_image_text_prefers_the_true_caption(evaluators: Evaluators) -> None:
    rng = Random("captions")
    scenes = [random_scene(rng) for _ in range(40)]
    pictures = np.stack([render(scene).image for scene in scenes])
    texts = [caption(rng, scene) for scene in scenes]
    true, other = evaluators.likeness(pictures, texts), evaluators.likeness(pictures, texts[1:] + texts[:1])
    assert (true > other).float().mean() >= 0.95


def test_pictures_of_any_size_are_read_alike(evaluators: Evaluators) -> None:
    scene = random_scene(Random(3), [random_subject(Random(3), "cat")], "snow", "big")
    small = render(scene).image
    large = np.kron(small, np.ones((4, 4, 1), dtype=np.uint8))
    assert np.array_equal(to_array([large])[0], small)
    assert evaluators.read(np.stack([large]))[0] == evaluators.read(np.stack([small]))[0]


def test_identities_are_those_of_the_subjects_that_are_read(evaluators: Evaluators) -> None:
    rng = Random("two")
    first, second = (random_subject(rng, cls) for cls in ("cat", "robot"))
    scenes = [random_scene(rng, pair) for pair in ([first, second], [second, first], [first])]
    pictures = np.stack([render(scene).image for scene in scenes])
    rows, readings = evaluators.identities(pictures), evaluators.read(pictures)
    assert [len(row) for row in rows] == [len(reading.subjects) for reading in readings] == [2, 2, 1]
    alike = torch.cat([rows[0], rows[1].flip(0)]) @ torch.cat([rows[0], rows[1].flip(0)]).T
    assert alike[0, 2] > 0.5 and alike[1, 3] > 0.5, "left and right have changed places"
    assert alike[0, 1] < 0.5 and alike[0, 3] < 0.5
    assert torch.allclose(rows[2], evaluators.identity(pictures[2:]), atol=1e-5)
