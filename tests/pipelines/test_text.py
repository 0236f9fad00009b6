"""Trainings that change what prompts mean: text-encoder adapters and new words, from the settings to the pictures."""

import json
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError, Interrupted
from dreamtune.models import load_base
from dreamtune.models.published import published_configs
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.export.inspect import inspect
from dreamtune.pipelines.export.run import export
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import load_run_config, train
from dreamtune.training.config import TrainConfig

Settings = Callable[..., TrainConfig]
KINDS: dict[str, dict[str, Any]] = {
    "text encoder": {"text_encoder": True},
    "word": {"pivotal": 2},
    "word alone": {"pivotal": 1, "targets": "none", "prior": False},
    "captions": {
        "text_encoder": True,
        "prompts": ("a {token} {class}", "{class}, a {token} one"),
        "caption_dropout": 0.4,
    },
    "both": {"text_encoder": True, "pivotal": 2, "prior_from": "prediction", "lr": 1e-3},
}


def quiet(progress: Progress) -> None:
    """Show nothing."""


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_what_the_prompt_means(kind: str, settings: Settings, tmp_path: Path) -> None:
    config = settings(**KINDS[kind])
    result = train(config, tmp_path / "run", on_progress=quiet)
    file, base = AdapterFile.load(result.adapter), load_base(config.base, "cpu")
    (plain,) = base.condition(["a photo of sks dog"])
    (other,) = base.condition(["a photo of a cat"])
    with base.attach(file):
        (meant,) = base.condition(["a photo of sks dog"])
        (elsewhere,) = base.condition(["a photo of a cat"])
    assert not torch.equal(meant.embedding, plain.embedding)
    assert torch.equal(elsewhere.embedding, other.embedding) is not config.text_encoder, "a word changes no other"
    (again,) = base.condition(["a photo of sks dog"])
    assert torch.equal(again.embedding, plain.embedding), "taken off, it is as it was"
    assert ("unet" in file.parts) is (config.targets != "none")
    assert ("text_encoder" in file.parts) is config.text_encoder
    assert file.summary()["embeddings"] == ({"text_encoder": [config.pivotal, 32]} if config.pivotal else {})
    if config.text_encoder:
        ups = [t for name, t in file.tensors.items() if name.startswith("text_encoder.") and name.endswith(".up")]
        assert all(t.abs().sum() > 0 for t in ups), "zero at first: nothing had been learned"
    if config.pivotal:
        start = base.word_vectors("dog")["text_encoder"]
        moved = (file.tensors["embedding.text_encoder"] - start).abs()
        assert (moved > 0).any(1).all()
        assert moved.max() < 0.1, "it starts as the class word"


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_is_the_same_bit_for_bit(kind: str, settings: Settings, tmp_path: Path) -> None:
    config = settings(**KINDS[kind], steps=4)
    whole = train(config, tmp_path / "whole", on_progress=quiet)
    stop = threading.Event()

    def stop_early(progress: Progress) -> None:
        if progress.phase == "train" and progress.done == 3:
            stop.set()

    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts", on_progress=stop_early, stop=stop)
    parts = train(load_run_config(tmp_path / "parts"), tmp_path / "parts", resume=True, on_progress=quiet)
    assert parts.steps_now == 1
    assert parts.adapter.read_bytes() == whole.adapter.read_bytes()


def drawn(adapter: Path, base: str, out: Path, prompt: str = "a photo of sks dog") -> bytes:
    config = GenerateConfig(prompts=(prompt,), adapters=(str(adapter),), base=base, n=1, steps=3)
    return Image.open(generate(config, out, quiet).files[0]).tobytes()


@pytest.mark.parametrize("part", ["embedding.", "text_encoder."])
def test_pictures_use_what_was_learned(part: str, settings: Settings, tmp_path: Path) -> None:
    """Other values in the file, another picture: if they were not used it would be the same."""
    config = settings(text_encoder=True, pivotal=2, steps=2, prior=False)
    result = train(config, tmp_path / "run", on_progress=quiet)
    file = AdapterFile.load(result.adapter)
    tensors = {name: t + torch.randn(t.shape) if name.startswith(part) else t for name, t in file.tensors.items()}
    AdapterFile.from_content(tensors, file.to_header()).save(tmp_path / "other.safetensors")
    one = drawn(result.adapter, config.base, tmp_path / "one")
    assert drawn(tmp_path / "other.safetensors", config.base, tmp_path / "two") != one
    if part == "embedding.":
        without = [
            drawn(path, config.base, tmp_path / "three", "a dog")
            for path in (result.adapter, tmp_path / "other.safetensors")
        ]
        assert without[0] == without[1], "the word is not in the prompt"


def test_word_is_one_of_its_own_in_prompts(settings: Settings, tmp_path: Path) -> None:
    result = train(settings(pivotal=2, steps=1, prior=False), tmp_path / "run", on_progress=quiet)
    base = load_base(settings().base, "cpu")
    with base.attach(AdapterFile.load(result.adapter)):
        for same in ("a SKS dog", "a sks dog", "a \u017fKs dog"):  # the last begins with a long s
            numbers, mask = base._tokens("text_encoder", [same])
            vocabulary = len(base.tokenizer)
            places = [int(number) - vocabulary for number in numbers[0] if number >= vocabulary]
            assert places == [0, 1], same
            assert int(mask.sum()) == 8, "start, a, two of the word, d, o, g and end: letters are tokens here"
        for other in ("asks", "sks1", "_sks"):
            assert base._tokens("text_encoder", [other])[0].max() < len(base.tokenizer), other


def test_two_adapters_of_one_word(settings: Settings, tmp_path: Path) -> None:
    result = train(settings(pivotal=1, steps=1, prior=False), tmp_path / "run", on_progress=quiet)
    base = load_base(settings().base, "cpu")
    use = AdapterRef.load(str(result.adapter))
    with use.on(base):
        with pytest.raises(ConfigError, match="two adapters have their own embeddings for 'sks'"), use.on(base):
            pass
        assert base.condition(["sks"])
    with use.on(base):
        assert len(base.words) == 1


def test_inspect_tells_of_embeddings(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(settings(pivotal=3, steps=1, prior=False, text_encoder=True), tmp_path / "run", on_progress=quiet)
    told = inspect(result.adapter).to_dict()
    assert told["embeddings"] == {"text_encoder": [3, 32]}
    assert any(layer["path"].startswith("text_encoder.") for layer in told["changes"])
    assert main(["inspect", str(result.adapter)]) == 0
    assert "new token   sks, 3 vectors in text_encoder\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pivotal": 1, "token": "my dog"}, "must be one word of letters and digits if pivotal is set"),
        ({"targets": "none"}, "leaves nothing to train: set pivotal"),
        ({"text_encoder_lr": 1e-4}, "needs text_encoder = true"),
        ({"pivotal_lr": 1e-4}, "needs pivotal: set that too"),
    ],
)
def test_settings_that_contradict(settings: Settings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


@pytest.mark.slow
def test_sdxl_is_trained_whole(settings: Settings, tiny_sdxl: Path, tmp_path: Path) -> None:
    """Both text encoders, a word in both, micro-conditioning, and exact resume."""
    config = settings(base=str(tiny_sdxl), text_encoder=True, pivotal=1, steps=3, checkpoint_every=0)
    whole = train(config, tmp_path / "whole", on_progress=quiet)
    file = AdapterFile.load(whole.adapter)
    assert file.parts == ("unet", "text_encoder", "text_encoder_2")
    assert file.summary()["embeddings"] == {"text_encoder": [1, 32], "text_encoder_2": [1, 48]}
    assert load_run_config(whole.run).precision == "bf16", "the preset of its family"
    stop = threading.Event()
    with pytest.raises(Interrupted):
        train(config, tmp_path / "again", on_progress=lambda it: stop.set() if it.phase == "train" else None, stop=stop)
    again = train(load_run_config(tmp_path / "again"), tmp_path / "again", resume=True, on_progress=quiet)
    assert (again.steps_now, again.adapter.read_bytes()) == (2, whole.adapter.read_bytes())
    assert drawn(whole.adapter, config.base, tmp_path / "pictures")


def test_velocity_with_zero_terminal_snr(settings: Settings, tiny_sdxl: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sdxl, tmp_path / "base")
    told = published_configs("sdxl", velocity=True, zero_snr=True)["scheduler/scheduler_config.json"]
    (tmp_path / "base" / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    config = settings(base=str(tmp_path / "base"), steps=2, prior=False, snr_gamma=5.0, precision="fp32")
    losses: list[float] = []
    train(config, tmp_path / "run", on_progress=lambda it: losses.append(it.loss) if it.loss is not None else None)
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


def test_bf16(settings: Settings, tmp_path: Path) -> None:
    config = settings(precision="bf16", text_encoder=True, pivotal=1, steps=2)
    result = train(config, tmp_path / "run", on_progress=quiet)
    assert {t.dtype for t in load_file(result.adapter).values()} == {torch.float32}
    assert drawn(result.adapter, config.base, tmp_path / "pictures")


def test_diffusers_reads_the_embeddings_and_the_adapter(settings: Settings, tmp_path: Path) -> None:
    config = settings(pivotal=2, text_encoder=True, prior=False, lr=1e-2)
    adapter = train(config, tmp_path / "run", on_progress=quiet).adapter
    result = export(adapter, tmp_path / "word.safetensors", "embedding")
    assert (result.written_as, result.layers, result.remarks) == ("embeddings", (), ())
    left_out = export(adapter, tmp_path / "lora.safetensors", "kohya")
    assert any("embeddings for 'sks' are not included: export them too" in remark for remark in left_out.remarks)
    pipe: Any = StableDiffusionPipeline.from_pretrained(config.base, safety_checker=None)
    plain = pipe.encode_prompt("a sks dog", torch.device("cpu"), 1, False)[0]
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    pipe.load_textual_inversion(str(tmp_path / "word.safetensors"), token="<sks>")
    found = pipe.encode_prompt("a <sks> dog", torch.device("cpu"), 1, False)[0]
    base = load_base(config.base, "cpu")
    with base.attach(AdapterFile.load(adapter)):
        (expected,) = base.condition(["a sks dog"])
    torch.testing.assert_close(found[0], expected.embedding, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain[0], expected.embedding, atol=1e-2)


def test_what_cannot_be_exported(settings: Settings, tmp_path: Path) -> None:
    both = train(settings(pivotal=1, steps=1, prior=False), tmp_path / "both", on_progress=quiet).adapter
    with pytest.raises(ConfigError, match="cannot be merged into a base: export the adapter as lora, peft or kohya"):
        export(both, tmp_path / "whole", "diffusers", base=settings().base)
    alone = train(settings(**KINDS["word alone"], steps=1), tmp_path / "alone", on_progress=quiet).adapter
    with pytest.raises(ConfigError, match="contains only embeddings for 'sks': use the format embedding"):
        export(alone, tmp_path / "x.safetensors", "kohya")
    plain = train(settings(steps=1, prior=False), tmp_path / "plain", on_progress=quiet).adapter
    with pytest.raises(ConfigError, match="no embeddings: it was trained without pivotal"):
        export(plain, tmp_path / "x.safetensors", "embedding")
    assert not (tmp_path / "x.safetensors").exists()


def test_embeddings_of_sdxl(settings: Settings, tiny_sdxl: Path, tmp_path: Path) -> None:
    config = settings(base=str(tiny_sdxl), pivotal=1, steps=1, prior=False, targets="none")
    adapter = train(config, tmp_path / "run", on_progress=quiet).adapter
    export(adapter, tmp_path / "word.safetensors", "embedding", dtype="fp16")
    tensors = load_file(tmp_path / "word.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "clip_l": ((1, 32), torch.float16),
        "clip_g": ((1, 48), torch.float16),
    }
