"""A disk that is really full: one clear message, nothing lost, and after making room the run ends bitwise the same."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError, DreamtuneError, RunFolderError, TrainingError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import TrainResult, load_run_config, train
from dreamtune.training import checkpoints
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS

Settings = Callable[..., TrainConfig]
BLOCK = 4096
"""What a tmpfs hands out."""


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Disk:
    """A small disk of its own."""

    path: Path

    def fill(self, free: int = 0) -> None:
        """Leave `free` bytes."""
        with open(self.path / "ballast", "ab") as ballast:
            if self.free > free:
                os.posix_fallocate(ballast.fileno(), ballast.tell(), self.free - free)

    def make_room(self) -> None:
        (self.path / "ballast").unlink()

    @property
    def free(self) -> int:
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """8 MiB; skips where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def size_on_disk(folder: Path) -> int:
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in folder.iterdir())


def at(step: int, do: Callable[[], None]) -> Callable[[Progress], None]:
    """A listener that acts when `step` is done, before its samples and its checkpoint are written."""

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", step):
            do()

    return listen


def fails(run: Callable[[], object], kind: type[DreamtuneError], place: str) -> DreamtuneError:
    """`run` ends with one message: what cannot be written, why, and what to do."""
    with pytest.raises(DreamtuneError) as caught:
        run()
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert re.match(rf"cannot write .*{place}", message), message
    assert "No space left on device" in message
    assert "free some disk space" in message
    assert "\n" not in message
    return caught.value


def check_kept(run: Path, step: int) -> None:
    """The checkpoint of `step` is there and whole, and no half file is."""
    newest = checkpoints.latest(run / "checkpoints")
    assert newest is not None and newest.step == step
    newest.load()
    AdapterFile.load(newest.path / "adapter.safetensors")
    assert [path for path in run.rglob("*") if path.name.endswith(".tmp")] == []


def resume(run: Path) -> TrainResult:
    return train(load_run_config(run), run, resume=True, on_progress=quiet)


def check_end(run: Path, whole: TrainResult) -> None:
    """Like a run that never met a full disk."""
    assert (run / "adapter.safetensors").read_bytes() == whole.adapter.read_bytes()
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, whole.steps + 1)
    )
    for sample in (whole.run / "samples").glob("*.png"):
        assert (run / "samples" / sample.name).read_bytes() == sample.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_full_within_a_checkpoint(share: float, disk: Disk, trained: TrainResult, settings: Settings) -> None:
    """At its first file, its last, and between."""
    run = disk.path / "run"
    fill = at(4, lambda: disk.fill(int(share * size_on_disk(run / "checkpoints" / "step-000002"))))
    config = settings(sample_every=3)
    error = fails(lambda: train(config, run, on_progress=fill), TrainingError, "checkpoints/step-000004:")
    assert error.exit_code == 1
    check_kept(run, 2)
    assert not (run / "adapter.safetensors").exists()
    disk.make_room()
    resume(run)
    check_end(run, trained)


def test_full_while_a_sample_is_written(disk: Disk, trained: TrainResult, settings: Settings) -> None:
    run, config = disk.path / "run", settings(sample_every=3)
    fails(lambda: train(config, run, on_progress=at(3, disk.fill)), TrainingError, "samples/step-000003-0.png:")
    assert not list((run / "samples").iterdir())
    check_kept(run, 2)
    disk.make_room()
    resume(run)
    check_end(run, trained)


def test_full_while_metrics_are_written(disk: Disk, settings: Settings, tmp_path: Path) -> None:
    """Within a line: those before it fill a block of the disk, and the next checkpoint is far away."""
    config = settings(steps=32, checkpoint_every=16, batch_size=1, prior=False)
    whole, run = train(config, tmp_path / "whole", on_progress=quiet), disk.path / "run"
    error = fails(lambda: train(config, run, on_progress=at(17, disk.fill)), TrainingError, "metrics.jsonl:")
    assert str(error).endswith(f"free some disk space and resume with: dreamtune train --resume {run}")
    assert error.exit_code == 1
    assert (run / "metrics.jsonl").stat().st_size == BLOCK, "cut within a line"
    check_kept(run, 16)
    disk.make_room()
    assert resume(run).steps_now == 16
    check_end(run, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_while_curves_are_written(disk: Disk, settings: Settings) -> None:
    """TensorBoard writes in a thread, whose traceback cannot be kept back; the run ends in one message all the same.

    Metrics begin a new block of the disk before that step, and events after it.
    """
    run = disk.path / "run"
    config = settings(steps=32, checkpoint_every=16, batch_size=1, prior=False, trackers=("tensorboard",))
    error = fails(lambda: train(config, run, on_progress=at(24, disk.fill)), TrainingError, "run/tensorboard:")
    assert error.exit_code == 1
    check_kept(run, 16)
    disk.make_room()
    assert resume(run).steps_now == 16


def test_full_while_the_adapter_is_written(disk: Disk, trained: TrainResult, settings: Settings) -> None:
    """There is room for the last sample and the last checkpoint, which has an adapter too, and for half of another."""
    run = disk.path / "run"

    def fill() -> None:
        kept = run / "checkpoints" / "step-000004"
        disk.fill(BLOCK + size_on_disk(kept) + (kept / "adapter.safetensors").stat().st_size // 2)

    config = settings(sample_every=3, keep_checkpoints=9)
    error = fails(lambda: train(config, run, on_progress=at(STEPS, fill)), TrainingError, "run/adapter.safetensors:")
    assert error.exit_code == 1
    check_kept(run, STEPS)
    assert not (run / "adapter.safetensors").exists()
    disk.make_room()
    assert resume(run).steps_now == 0
    check_end(run, trained)


def test_full_from_the_beginning_the_command_can_be_given_again(
    disk: Disk, trained: TrainResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """config.yaml is the first file; and a run that is resumed on a full disk keeps the one it has."""
    recipe, run = tmp_path / "recipe.yaml", disk.path / "run"
    recipe.write_text(load_run_config(trained.run).to_yaml())
    command = ["train", "--config", str(recipe), "--out", str(run)]
    disk.fill()
    assert main(command) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last == (
        f"Error: cannot write {run}/config.yaml: No space left on device; free some disk space and run the same "
        "command again"
    )
    assert [path.name for path in run.iterdir()] == [".lock"]
    disk.make_room()
    assert main(command) == 0
    check_end(run, trained)
    disk.fill()
    error = fails(lambda: resume(run), RunFolderError, "run/config.yaml:")
    assert error.exit_code == 2
    check_kept(run, STEPS)
    disk.make_room()
    resume(run)
    check_end(run, trained)


@pytest.mark.parametrize(
    ("blocks", "begun"), [(0, "latents"), (6, "prompts"), (14, "prior")], ids=["latents", "prompts", "prior"]
)
def test_full_cache(
    blocks: int,
    begun: str,
    disk: Disk,
    trained: TrainResult,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(disk.path))
    disk.fill(blocks * BLOCK)
    run, config = tmp_path / "run", settings(sample_every=3)
    error = fails(lambda: train(config, run, on_progress=quiet), ConfigError, f"the cache {disk.path}:")
    assert error.exit_code == 2
    assert "set DREAMTUNE_CACHE to another folder" in str(error)
    assert begun in {path.name for path in disk.path.iterdir()}
    assert [path for path in disk.path.rglob("*") if path.name.endswith(".tmp")] == []
    disk.make_room()
    resume(run)
    check_end(run, trained)
