"""TensorBoard and W&B get what metrics.jsonl has, once, and change nothing else."""

import json
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import ConfigError, Interrupted
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train import trackers
from dreamtune.pipelines.train.run import TrainResult, load_run_config, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS

Settings = Callable[..., TrainConfig]
BOTH = ("tensorboard", "wandb")


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


def interrupted_after(step: int, config: TrainConfig, run: Path) -> None:
    """Train until `step`, and forget the checkpoints as if a kill had been quicker."""
    stop = threading.Event()

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", step):
            stop.set()

    with pytest.raises(Interrupted):
        train(config, run, resume=run.exists(), on_progress=listen, stop=stop)
    shutil.rmtree(run / "checkpoints")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        yield


@pytest.fixture(scope="module")
def tracked(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A training that both watch, interrupted so that steps are done twice, then again when fewer were done anew."""
    config, run = settings(trackers=BOTH, sample_every=3), tmp_path_factory.mktemp("runs") / "tracked"
    interrupted_after(5, config, run)
    interrupted_after(3, config, run)
    return train(config, run, resume=True, on_progress=quiet)


def test_tracked_training_is_bitwise_the_untracked_one(trained: TrainResult, tracked: TrainResult) -> None:
    assert tracked.adapter.read_bytes() == trained.adapter.read_bytes()


def metrics(result: TrainResult) -> dict[str, list[tuple[int, Any]]]:
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    return {
        f"train/{name}": [(line["step"], pytest.approx(line[name], rel=1e-5)) for line in lines]
        for name in ("loss", "subject_loss", "prior_loss", "lr", "grad_norm")
    }


def test_tensorboard_has_every_step_once(tracked: TrainResult) -> None:
    """Read record by record: TensorBoard itself would hide what is there twice."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    points: dict[str, list[tuple[int, Any]]] = {}
    for file in sorted((tracked.run / "tensorboard").iterdir()):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                points.setdefault(value.tag, []).append((event.step, make_ndarray(value.tensor)))
    assert [step for step, _ in points.pop("samples/0")] == [3, STEPS]
    numbers = {name: [(step, float(value)) for step, value in sorted(found)] for name, found in points.items()}
    assert [step for step, _ in numbers.pop("train/seconds")] == list(range(1, STEPS + 1))
    assert numbers == metrics(tracked)


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format behind seven bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # the end of a block is padded
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb_has_every_step_once_and_one_run(tracked: TrainResult) -> None:
    points: dict[str, list[tuple[int, Any]]] = {}
    runs, told = set(), {}
    files = sorted((tracked.run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 3
    for record in (record for file in files for record in wandb_records(file)):
        if record.WhichOneof("record_type") == "run":
            runs.add((record.run.run_id, record.run.display_name, record.run.project))
            told |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            points.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    assert len(runs) == 1
    assert runs.pop()[1:] == ("tracked", "dreamtune")
    config = load_run_config(tracked.run)
    assert {name: told[name] for name in config.public()} == config.public()
    assert not {"images", "base", "sample_prompts"} & told.keys()
    assert [step for step, _ in points["samples/0/_type"]] == [3, STEPS]
    assert {name: points[name] for name in metrics(tracked)} == metrics(tracked)


def test_nothing_private_is_told(tracked: TrainResult, photos: Path) -> None:
    """No path, neither of the pictures nor of the machine, in what would be sent."""
    for file in (tracked.run / "wandb").glob("offline-run-*/*.wandb"):
        data = file.read_bytes()
        for secret in (photos.parent, tracked.run.parent, Path(sys.executable).parent):
            assert str(secret).encode() not in data


def test_nobody_is_told_unless_asked(trained: TrainResult) -> None:
    assert TrainConfig(images=Path("x"), class_word="dog").trackers == ()
    assert not {"tensorboard", "wandb", "trackers.json"} & {path.name for path in trained.run.iterdir()}


@pytest.mark.parametrize("name", BOTH)
def test_missing_package_is_told_before_anything_is_written(
    name: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"trackers: cannot import {name} .*pip install {name}"):
        train(settings(trackers=(name,)), tmp_path / "run", on_progress=quiet)
    assert not (tmp_path / "run").exists()


def test_wandb_without_a_login_says_how(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    import wandb

    wandb.teardown()  # it has read the environment before
    with pytest.raises(ConfigError, match=r"wandb failed to start \(.*log in with `wandb login` or set WANDB_MODE"):
        train(settings(steps=1, prior=False, trackers=("wandb",)), tmp_path / "run", on_progress=quiet)
    wandb.teardown()


def test_names_are_those_of_the_settings() -> None:
    for name in trackers._TRACKERS:
        assert TrainConfig(images=Path("x"), class_word="dog", trackers=(name,)).trackers == (name,)  # pyright: ignore[reportArgumentType]
