"""What a training owes to methods that need more than steps: a launch, singular vectors, own learning rates."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile
from dreamtune.adapters.parts import UNET
from dreamtune.errors import ConfigError, Interrupted
from dreamtune.models import load_base
from dreamtune.pipelines.cli.inspect import show
from dreamtune.pipelines.export.inspect import inspect
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.plan import plan
from dreamtune.pipelines.train.run import TrainResult, train
from dreamtune.training.archive import read_tree
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS

LAUNCH = 3
Settings = Callable[..., TrainConfig]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@pytest.fixture(scope="module")
def dash(settings: Settings) -> Callable[..., TrainConfig]:
    """Settings of a LoRA-Dash that launches in the middle of a training without class pictures."""

    def make(launch_step: int = LAUNCH, **changes: Any) -> TrainConfig:
        options = {"launch_step": launch_step, "directions": 4, "dash_lr_ratio": 7.0}
        return settings(**{"method": "lora-dash", "prior": False, "method_options": options} | changes)

    return make


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def launched(dash: Settings, told: list[Progress], tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(dash(), tmp_path_factory.mktemp("runs") / "dash", on_progress=told.append)


def named(file: AdapterFile, name: str) -> list[Tensor]:
    return [tensor for key, tensor in file.tensors.items() if key.endswith(f".{name}")]


def test_launch_is_told_and_written_down(launched: TrainResult, told: list[Progress]) -> None:
    remark = f"LoRA-Dash launched after {LAUNCH} steps"
    assert [p.message for p in told if p.phase == "remark"] == [remark], "once, not for each layer"
    metrics = [json.loads(line) for line in (launched.run / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("remarks") for line in metrics] == [[remark] if step == LAUNCH else None for step in range(STEPS)]
    file = AdapterFile.load(launched.adapter)
    layers = len(file.layers)
    assert [(p.done, p.total) for p in told if p.phase == "lora-dash"] == [(n, layers) for n in range(1, layers + 1)]
    assert {int(tensor) for tensor in named(file, "launched")} == {1}
    assert all(sigma.count_nonzero() == 4 for sigma in named(file, "delta_sigma"))


@pytest.mark.parametrize("steps", [LAUNCH - 1, LAUNCH])
def test_a_training_that_would_not_launch_is_refused(dash: Settings, tmp_path: Path, steps: int) -> None:
    for run in (train, plan):
        with pytest.raises(ConfigError, match=f"launch_step = {LAUNCH} steps, but there are only {steps}: .*LoRA"):
            run(dash(steps=steps), tmp_path / "run", on_progress=quiet)
    assert not (tmp_path / "run").exists()


def test_a_run_of_former_days_that_does_not_launch_can_be_resumed(dash: Settings, tmp_path: Path) -> None:
    run, told = RunFolder(tmp_path / "run"), list[Progress]()
    run.path.mkdir()
    config = dash(launch_step=2, steps=2).with_presets("pocket")
    run.write_config(config.changed(images=str(Path(config.images).resolve()), resolution=32))
    result = train(run.read_config(), run.path, resume=True, on_progress=told.append)
    assert "it would stay plain LoRA" in told[0].message
    assert set(named(AdapterFile.load(result.adapter), "launched")) != {1}
    state = inspect(result.adapter).state
    layers = len(AdapterFile.load(result.adapter).layers)
    assert state == (f"not launched, so it is plain LoRA (launch_step = 2), in {layers} of {layers} layers",)


def test_inspect_tells_the_launch(launched: TrainResult, capsys: pytest.CaptureFixture[str]) -> None:
    result = inspect(launched.adapter)
    layers = len(AdapterFile.load(launched.adapter).layers)
    assert result.state == (f"launched (launch_step = {LAUNCH}), in {layers} of {layers} layers",)
    show(result)
    assert f"state       launched (launch_step = {LAUNCH})" in capsys.readouterr().out


@pytest.mark.parametrize("stops", [(1,), (LAUNCH,), (LAUNCH + 1,), (2, 4)], ids=str)
def test_resumed_on_either_side_of_the_launch_it_is_bitwise_uninterrupted(
    launched: TrainResult, dash: Settings, tmp_path: Path, stops: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty store: the directions come from the checkpoint, or from the same weights again."""
    monkeypatch.setattr("dreamtune.adapters.svd.cache_dir", lambda: tmp_path / "cache")
    run = tmp_path / "run"
    for step in stops:
        stop = threading.Event()

        def listen(progress: Progress, step: int = step, stop: threading.Event = stop) -> None:
            if (progress.phase, progress.done) == ("train", step):
                stop.set()

        with pytest.raises(Interrupted, match=f"after step {step} of {STEPS}"):
            train(dash(), run, resume=run.exists(), on_progress=listen, stop=stop)
    result = train(dash(), run, resume=True, on_progress=quiet)
    assert result.adapter.read_bytes() == launched.adapter.read_bytes()


def test_only_optimizer_steps_bring_the_launch(dash: Settings, tmp_path: Path) -> None:
    """Not the passes of an accumulation, nor those of sample pictures."""
    result = train(dash(STEPS - 1, gradient_accumulation_steps=3, sample_every=1), tmp_path / "run", on_progress=quiet)
    metrics = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "remarks" in line] == [STEPS]


def test_before_the_launch_it_is_lora_bit_for_bit(dash: Settings, settings: Settings, tmp_path: Path) -> None:
    """At the checkpoint before it."""
    kept = {"checkpoint_every": STEPS - 1, "prior": False}
    last = f"checkpoints/step-{STEPS - 1:06d}/adapter.safetensors"
    ours = AdapterFile.load(train(dash(STEPS - 1, **kept), tmp_path / "dash", on_progress=quiet).run / last)
    plain = AdapterFile.load(train(settings(**kept), tmp_path / "lora", on_progress=quiet).run / last)
    assert {int(tensor) for tensor in named(ours, "launched")} == {0}
    assert not any(tensor.count_nonzero() for name in ("left", "right", "delta_sigma") for tensor in named(ours, name))
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in plain.tensors.items())


def test_directions_begin_with_their_own_rate_and_fresh_moments(dash: Settings, tmp_path: Path) -> None:
    """Adam's first step moves every number by its learning rate, whatever the gradient; its hundredth need not."""
    result = train(dash(STEPS - 1, weight_decay=0.0), tmp_path / "run", on_progress=quiet)
    last = json.loads((result.run / "metrics.jsonl").read_text().splitlines()[-1])
    for sigma in named(AdapterFile.load(result.adapter), "delta_sigma"):
        torch.testing.assert_close(sigma.abs(), torch.full((4,), 7.0 * last["lr"]), rtol=0.05, atol=0)


@pytest.mark.parametrize("method", ["spectral-a", "spectral-r"])
def test_spectral_trainings_show_their_start_and_resume(method: str, settings: Settings, tmp_path: Path) -> None:
    told: list[Progress] = []
    config = settings(method=method, prior=False, method_options={"train_singular_values": True})
    whole = train(config, tmp_path / "whole", on_progress=told.append)
    shown = [(p.done, p.total) for p in told if p.phase == "singular vectors"]
    file = AdapterFile.load(whole.adapter)
    assert shown == [(done, len(file.layers)) for done in range(len(file.layers) + 1)]
    assert all(tensor.count_nonzero() for name in ("left", "right", "values") for tensor in named(file, name))
    groups = read_tree(whole.run / "checkpoints" / f"step-{STEPS:06d}", "optimizer")["param_groups"]
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [
        (2 * len(file.layers), config.weight_decay),
        (len(file.layers), 0.0),
    ]

    stop = threading.Event()
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", on_progress=lambda p: stop.set() if p.phase == "train" else None, stop=stop)
    again = train(config, tmp_path / "run", resume=True, on_progress=quiet)
    assert again.adapter.read_bytes() == whole.adapter.read_bytes()


def test_methods_without_singular_vectors_show_none(settings: Settings, tmp_path: Path) -> None:
    told: list[Progress] = []
    train(settings(steps=1, prior=False), tmp_path / "run", on_progress=told.append)
    assert "singular vectors" not in {progress.phase for progress in told}


@pytest.mark.parametrize(
    "method",
    [it if it in ("lora-dash", "spectral-r") else pytest.param(it, marks=pytest.mark.slow) for it in METHODS],
)
def test_same_command_twice_gives_the_same_bytes(
    method: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time with nothing in the cache: latents, prompts and singular vectors are computed again."""
    options = {"launch_step": 2, "directions": 4} if method == "lora-dash" else {}
    config = settings(method=method, method_options=options, steps=3, checkpoint_every=0, prior=False)
    first = train(config, tmp_path / "first", on_progress=quiet)
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    second = train(config, tmp_path / "second", on_progress=quiet)
    assert first.adapter.read_bytes() == second.adapter.read_bytes()
    assert first.final_loss == second.final_loss
    base = load_base(str(config.base), device="cpu")
    file = AdapterFile.load(first.adapter)
    spectra = file.spectra(file.weights({UNET: base.unet}))
    assert all(spectrum.norm > 0 for spectrum in spectra.values()), "nothing was trained"
