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
from dreamtune.errors import Interrupted
from dreamtune.models import load_base
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train import TrainResult, train
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
    config = dash(STEPS, accumulation=3, sample_every=1)
    file = AdapterFile.load(train(config, tmp_path / "run", on_progress=quiet).adapter)
    assert {int(tensor) for tensor in named(file, "launched")} == {0}
    assert not any(tensor.count_nonzero() for name in ("left", "right", "delta_sigma") for tensor in named(file, name))


def test_before_the_launch_it_is_lora_bit_for_bit(dash: Settings, settings: Settings, tmp_path: Path) -> None:
    ours = AdapterFile.load(train(dash(STEPS), tmp_path / "dash", on_progress=quiet).adapter)
    plain = AdapterFile.load(train(settings(prior=False), tmp_path / "lora", on_progress=quiet).adapter)
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


@pytest.mark.parametrize("method", METHODS)
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
