"""An adapter that was trained with zero terminal SNR is drawn with it, wherever pictures are drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError
from dreamtune.models import Base, load_base
from dreamtune.models.single_file import look_inside
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.export.run import export
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.run import fuse
from dreamtune.pipelines.generate.config import DrawingConfig, GenerateConfig
from dreamtune.pipelines.generate.run import generate
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import Encoders
from tests.tiny_models import tiny_checkpoint, tiny_folder

ZERO = {"zero_terminal_snr": True}
Make = Callable[..., Path]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@pytest.fixture(scope="module")
def velocity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that predicts v, and says nothing of zero terminal SNR; read only."""
    return tiny_folder(tmp_path_factory.mktemp("bases") / "velocity", "v_prediction")


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """Whether betas were rescaled, and how steps were spaced, each time that something was drawn."""
    seen: list[tuple[bool, str]] = []
    draw = Base.draw

    def watched(self: Base, *args: Any, **options: Any) -> Tensor:
        told = self.scheduler.config
        seen.append((bool(told.get("rescale_betas_zero_snr")), told.get("timestep_spacing")))
        return draw(self, *args, **options)

    monkeypatch.setattr(Base, "draw", watched)
    return seen


def test_samples_and_scores_of_the_training_but_not_its_class_pictures(
    settings: Callable[..., TrainConfig],
    velocity: Path,
    encoders: Encoders,
    noises: list[tuple[bool, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("dreamtune.pipelines.train.scores.PROMPTS", 1)
    judges = {"dino": encoders.dino, "clip": encoders.clip}
    config = settings(base=str(velocity), steps=1, prior_images=1, sample_every=1, score_every=1, **judges, **ZERO)
    result = train(config, tmp_path / "run", on_progress=quiet)
    prior, *rest = noises
    assert prior == (False, "leading")
    assert len(rest) >= 3
    assert set(rest) == {(True, "trailing")}
    file = AdapterFile.load(result.adapter)
    assert file.training["zero_terminal_snr"] is True
    base = load_base(velocity, "cpu").with_zero_terminal_snr()
    with base.attach(file):
        latents = base.draw(["a sks dog"], [0], size=32, steps=2, guidance=config.with_presets("pocket").guidance)
        (expected,) = base.to_pictures(latents)
    with Image.open(tmp_path / "run" / "samples" / "step-000001-0.png") as sample:
        assert sample.convert("RGB").tobytes() == expected.tobytes()


@pytest.fixture
def adapters(make: Make, velocity: Path, beside: None) -> tuple[str, str]:
    """One that was trained so, and one that was not."""
    zero = make("zero", base=velocity, training=ZERO)
    return str(zero), str(make("plain", base=velocity, seed=1, token="zwx"))


@pytest.fixture
def beside(velocity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name a base by its folder alone, which is then found."""
    monkeypatch.chdir(velocity.parent)


def drawing(adapters: tuple[str, ...], **changes: Any) -> GenerateConfig:
    return GenerateConfig(prompts=("a sks zwx dog",), adapters=adapters, n=1, steps=2, device="cpu", **changes)


def test_generate(adapters: tuple[str, str], noises: list[tuple[bool, str]], tmp_path: Path) -> None:
    zero, plain = adapters
    result = generate(drawing((zero,)), tmp_path / "zero", quiet)
    with Image.open(result.files[0]) as picture:
        told = json.loads(picture.info["dreamtune"])
    assert told["zero_terminal_snr"] is True
    assert not any("zero terminal" in remark for remark in result.remarks)
    generate(drawing((plain,)), tmp_path / "plain", quiet)
    assert noises == [(True, "trailing"), (False, "leading")]


def test_mixed_adapters_are_remarked_on(adapters: tuple[str, str], noises: list[Any], tmp_path: Path) -> None:
    result = generate(drawing(adapters), tmp_path / "both", quiet)
    assert noises == [(True, "trailing")]
    wanted = (
        "trained with zero terminal SNR: adapter.safetensors; without: adapter.safetensors; all are sampled with it"
    )
    assert wanted in result.remarks


def test_a_sampler_that_cannot_is_refused(adapters: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zero terminal SNR, which heun does not support"):
        generate(drawing(adapters[:1], scheduler="heun"), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_base_that_predicts_noise_stays_as_it_is(make: Make, tiny: Path, noises: list[Any], tmp_path: Path) -> None:
    zero = make("zero", base=tiny, training=ZERO)
    result = generate(drawing((str(zero),), base=str(tiny)), tmp_path / "out", quiet)
    assert noises == [(False, "leading")]
    assert any("tiny predicts noise and cannot use it" in remark for remark in result.remarks)


def test_whatever_draws_loads_its_base_so(adapters: tuple[str, str]) -> None:
    """As evaluate does."""
    uses = [AdapterRef.load(adapters[0])]
    assert DrawingConfig(device="cpu").load_base(uses).scheduler.config.rescale_betas_zero_snr is True


def test_fused_and_exported_it_is_still_so(
    adapters: tuple[str, str], velocity: Path, beside: None, tmp_path: Path
) -> None:
    fuse(FuseConfig(adapters=adapters, method="sum"), tmp_path / "both.safetensors", quiet)
    assert AdapterFile.load(tmp_path / "both.safetensors").training["zero_terminal_snr"] is True
    export(adapters[0], tmp_path / "folder", "diffusers")
    told = json.loads((tmp_path / "folder" / "scheduler" / "scheduler_config.json").read_text())
    assert (told["rescale_betas_zero_snr"], told["timestep_spacing"]) == (True, "trailing")
    checkpoint = tiny_checkpoint(velocity, tmp_path / "model.safetensors")
    export(adapters[0], tmp_path / "whole.safetensors", "checkpoint", base=str(checkpoint))
    found = look_inside(tmp_path / "whole.safetensors")
    assert (found.velocity, found.zero_snr) == (True, True)
    assert load_file(tmp_path / "whole.safetensors")["ztsnr"].numel() == 0


def test_files_of_sd_scripts_say_so_too(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.lora_up.weight": torch.ones(32, 1), f"{name}.lora_down.weight": torch.ones(1, 32)}
    for said in ("True", "False"):
        save_file(tensors, tmp_path / "x.safetensors", {"ss_zero_terminal_snr": said})
        assert AdapterRef.load(str(tmp_path / "x.safetensors")).zero_terminal_snr is (said == "True")
