"""Real processes that are killed, stopped by signals, and a hub that is really out of reach."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dreamtune.training import checkpoints
from dreamtune.training.config import TrainConfig
from tests.pipelines.forks import Forks, Process

Settings = Callable[..., TrainConfig]
ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class Training:
    """What is to be trained, and how it ends when nobody interrupts it."""

    forks: Forks
    recipe: Path
    steps: int
    adapter: bytes
    seconds: float
    """How long it takes."""

    def start(self, run: Path, slow_disk: float = 0.0, slow_file: str = "") -> Process:
        """Begin it in the folder `run`, or go on with it: what the user has to do after a kill at any instant."""
        begun = (run / "config.yaml").exists()
        arguments = ["--resume", str(run)] if begun else ["--config", str(self.recipe), "--out", str(run)]
        return self.forks.start("train", *arguments, slow_disk=slow_disk, slow_file=slow_file)

    def finish(self, run: Path) -> None:
        """Go on until it is done, undisturbed, and look at what it leaves."""
        process = self.start(run)
        assert process.wait() == 0, process.errors
        self.check_end(run)

    def check_end(self, run: Path) -> None:
        """A run folder like that of a training which nobody interrupted."""
        assert (run / ADAPTER).read_bytes() == self.adapter
        assert json.loads((run / "report.json").read_text())["steps"] == self.steps
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, self.steps + 1))
        assert [path for path in run.rglob("*") if path.name.endswith(".tmp")] == []

    def check_killed(self, run: Path) -> None:
        """No file is half there under its name, and nobody seems to be at work."""
        if not run.exists():
            return
        with FileLock(run / ".lock", timeout=0):
            pass
        if (run / "config.yaml").exists():
            TrainConfig.load(run / "config.yaml")
        if (run / ADAPTER).exists():
            assert (run / ADAPTER).read_bytes() == self.adapter
        if (run / "report.json").exists():
            json.loads((run / "report.json").read_text())
        named = sorted((run / "checkpoints").glob("step-*"))
        if named:
            newest = checkpoints.latest(run / "checkpoints")
            assert newest is not None and newest.path == named[-1], "a checkpoint is complete or absent"
            newest.load()


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("logs")) as forks:
        yield forks


@pytest.fixture(scope="module")
def training(
    forks: Forks, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Training]:
    """Trainings by method and steps, each done once without interruption. LoRA-Dash launches in the middle."""
    known: dict[tuple[str, int], Training] = {}

    def make(method: str, steps: int) -> Training:
        if (method, steps) not in known:
            folder = tmp_path_factory.mktemp(method)
            dash = {"launch_step": steps // 2 + 1, "directions": 4}
            config = settings(
                method=method,
                method_options=dash if method == "lora-dash" else {},
                steps=steps,
                checkpoint_every=steps // 6,
                prior=method == "lora",
                batch_size=1,
            )
            (folder / "recipe.yaml").write_text(config.to_yaml())
            whole = Training(forks, folder / "recipe.yaml", steps, b"", 0.0)
            began = time.monotonic()
            process = whole.start(folder / "whole")
            assert process.wait() == 0, process.errors
            seconds, adapter = time.monotonic() - began, (folder / "whole" / ADAPTER).read_bytes()
            known[method, steps] = Training(forks, whole.recipe, steps, adapter, seconds)
        return known[method, steps]

    return make


def lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def wait_until(condition: Callable[[], Any], process: Process) -> None:
    """Look every millisecond whether `condition` holds, which may be for a moment only."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, process.errors
        time.sleep(0.001)


def kill_at_random(training: Training, kills: int, folder: Path, slow_disk: float) -> None:
    """Kill -9 at `kills` instants anywhere between start and end, each time going on with what is left."""
    done, run, reach = 0, folder / "0", training.seconds
    dice = random.Random(str(folder.name))
    while done < kills:
        is_fresh, began = not run.exists(), time.monotonic()
        process = training.start(run, slow_disk)
        instant = began + dice.uniform(0, reach)
        while time.monotonic() < instant and not (run / "report.json").exists():
            time.sleep(0.001)
        if time.monotonic() >= instant:
            process.send(signal.SIGKILL)
        elif is_fresh:
            reach = time.monotonic() - began  # the machine is quicker now than when it took the time
        if process.wait() == -signal.SIGKILL:
            done += 1
            training.check_killed(run)
        else:
            assert process.wait() == 0, process.errors
            training.check_end(run)
            run = folder / f"{run.name}+"
    training.finish(run)


def test_killed_at_any_instant_the_run_ends_bitwise_the_same(
    training: Callable[[str, int], Training], tmp_path: Path
) -> None:
    """The method that has most to keep; the others below."""
    kill_at_random(training("lora-dash", 18), 2, tmp_path, slow_disk=0.0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("slow_disk", [0.0, 0.03], ids=["quick disk", "slow disk"])
@pytest.mark.parametrize("method", ["lora", "dora", "lora-dash"])
def test_twenty_kills(training: Callable[[str, int], Training], method: str, slow_disk: float, tmp_path: Path) -> None:
    """With a slow disk most of them fall into a checkpoint that is being written."""
    kill_at_random(training(method, 60), 20, tmp_path, slow_disk)


@pytest.mark.parametrize("launched", [False, True], ids=["before the launch", "after the launch"])
def test_killed_on_either_side_of_the_launch(
    training: Callable[[str, int], Training], launched: bool, tmp_path: Path
) -> None:
    """Between two checkpoints, so that steps are done again and the launch with them."""
    dash = training("lora-dash", 18)
    process = dash.start(tmp_path / "run")
    wait_until(lambda: lines(tmp_path / "run" / "metrics.jsonl") >= (14 if launched else 8), process)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    dash.check_killed(tmp_path / "run")
    dash.finish(tmp_path / "run")


@pytest.mark.parametrize(
    "instant",
    [
        "checkpoints/.step-000006.*.tmp/adapter.tensors",
        "checkpoints/.step-000006.*.tmp/manifest.json",
        f".{ADAPTER}.*.tmp",
    ],
)
def test_killed_inside_a_save(training: Callable[[str, int], Training], instant: str, tmp_path: Path) -> None:
    lora, run = training("lora", 18), tmp_path / "run"
    slow_file = "/.step-000006." if instant.startswith("checkpoints") else f"/run/.{ADAPTER}"
    process = lora.start(run, slow_disk=0.5, slow_file=slow_file)
    wait_until(lambda: list(run.glob(instant)), process)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(run.glob(instant)), "the kill came too late to leave anything"
    lora.check_killed(run)
    lora.finish(run)


def test_killed_while_the_first_file_is_written_the_command_can_be_given_again(
    training: Callable[[str, int], Training], tmp_path: Path
) -> None:
    lora, run = training("lora", 18), tmp_path / "run"
    process = lora.start(run, slow_disk=0.5, slow_file="/.config.yaml")
    wait_until(lambda: list(run.glob(".config.yaml.*.tmp")), process)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert sorted(path.name for path in run.iterdir())[0].startswith(".config.yaml"), "half a file is left"
    lora.finish(run)


def test_stopped_within_a_step_with_a_checkpoint_and_the_way_back(
    training: Callable[[str, int], Training], tmp_path: Path
) -> None:
    """By each signal in turn, the same run."""
    lora, run = training("lora", 18), tmp_path / "run"
    for step, name in ((2, "SIGINT"), (7, "SIGTERM"), (12, "SIGHUP")):
        process = lora.start(run)
        wait_until(lambda step=step: lines(run / "metrics.jsonl") >= step, process)
        process.send(getattr(signal, name))
        asked = lines(run / "metrics.jsonl")
        assert process.wait() == 130, process.errors
        last = process.errors.splitlines()[-1]
        told = re.fullmatch(
            r"Error: stopped after step (\d+) of 18; a checkpoint was written; resume with: "
            rf"dreamtune train --resume {run}",
            last,
        )
        assert told, last
        assert int(told[1]) <= asked + 2, "the step that ran, and one more where the signal came between two"
        newest = checkpoints.latest(run / "checkpoints")
        assert newest is not None and newest.step == int(told[1])
    lora.finish(run)


def test_second_interrupt_stops_at_once_and_harms_nothing(
    training: Callable[[str, int], Training], tmp_path: Path
) -> None:
    """While the checkpoint that the first one asked for is written, which here would take half a minute."""
    lora, run = training("lora", 18), tmp_path / "run"
    process = lora.start(run, slow_disk=2.5, slow_file="/checkpoints/")
    wait_until(lambda: lines(run / "metrics.jsonl") >= 1, process)
    process.send(signal.SIGINT)
    wait_until(lambda: list(run.glob("checkpoints/.step-*.tmp/manifest.json")), process)
    began = time.monotonic()
    process.send(signal.SIGINT)
    assert process.wait() == 130, process.errors
    assert time.monotonic() - began < 10
    assert process.errors.splitlines()[-1] == "Stopped."
    assert "Traceback" not in process.errors
    lora.check_killed(run)
    lora.finish(run)


@pytest.mark.slow
@pytest.mark.alone
def test_hub_out_of_reach_is_told_within_seconds(photos: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dreamtune.pipelines.cli", "train", str(photos)),
            *("--class", "dog", "--base", "some/model", "--out", str(tmp_path / "run")),
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors.startswith("Error: no folder 'some/model' here, and the hub cannot be reached")
    assert errors.count("\n") == 1, "no retries, no advice of the libraries"
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()
