"""Real processes that are killed, and a hub that is really out of reach."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamtune.training.config import TrainConfig

pytestmark = pytest.mark.slow


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dreamtune.pipelines.cli", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def test_killed_at_any_instant_the_run_ends_bitwise_the_same(
    settings: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Three kills: before the first checkpoint, between two, and wherever half a second falls."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(settings(steps=60, checkpoint_every=5).to_yaml())
    whole = start("train", "--config", str(recipe), "--out", str(tmp_path / "whole"), "--json")
    result, errors = whole.communicate(timeout=200)
    assert whole.returncode == 0, errors
    assert json.loads(result)["steps"] == 60
    run = tmp_path / "run"
    arguments = ["--config", str(recipe), "--out", str(run)]
    for step in (3, 12, 31):
        process = start("train", *arguments)
        while lines(run / "metrics.jsonl") < step:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert not (run / "adapter.safetensors").exists()
        arguments = ["--resume", str(run)]
    last = start("train", *arguments, "--json")
    result, errors = last.communicate(timeout=200)
    assert last.returncode == 0, errors
    assert json.loads(result)["steps_now"] < 60
    adapter = Path("adapter.safetensors")
    assert (run / adapter).read_bytes() == (tmp_path / "whole" / adapter).read_bytes()


def test_sigterm_leaves_a_checkpoint(settings: Callable[..., TrainConfig], tmp_path: Path) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(settings(steps=10_000, checkpoint_every=0).to_yaml())
    process = start("train", "--config", str(recipe), "--out", str(run))
    while lines(run / "metrics.jsonl") < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("Error: stopped after step ")
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_hub_out_of_reach_is_told_within_seconds(photos: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    process = start(
        *("train", str(photos), "--class", "dog", "--base", "some/model", "--out", str(tmp_path / "run")),
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "hub"),
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors.startswith("Error: no folder 'some/model' here, and the hub cannot be reached")
    assert errors.count("\n") == 1, "no retries, no advice of the libraries"
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()
