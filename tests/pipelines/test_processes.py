"""Two processes under accelerate launch do what one does with twice the accumulation."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreamtune.adapters import AdapterFile
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig

STEPS, LAUNCH = 5, 2


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dreamtune in two processes; accelerate starts several by --multi_gpu alone, on a CPU too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    accelerate = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    options = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    command = (*accelerate, *options, "--main_process_port", str(port), "-m", "dreamtune.pipelines.cli", *arguments)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def config(settings: Callable[..., TrainConfig]) -> TrainConfig:
    """LoRA-Dash that launches on the way: processes must begin to train its directions together."""
    options = {"launch_step": LAUNCH, "directions": 4}
    return settings(steps=STEPS, method="lora-dash", method_options=options, checkpoint_every=2, sample_every=4)


@pytest.mark.slow
def test_two_processes_give_the_adapter_of_one_with_doubled_accumulation(config: TrainConfig, tmp_path: Path) -> None:
    """To the last bit or two: a mean of two gradients is rounded like half their sum."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml())
    done = launch("train", "--config", str(recipe), "--out", str(tmp_path / "two"), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: the second process says nothing
    assert (result["steps"], result["steps_now"]) == (STEPS, STEPS)

    one = train(TrainConfig.load(recipe, gradient_accumulation_steps=2), tmp_path / "one", on_progress=quiet)
    both, alone = AdapterFile.load(tmp_path / "two" / "adapter.safetensors"), AdapterFile.load(one.adapter)
    assert both.tensors.keys() == alone.tensors.keys()
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(both.tensors[name], tensor, rtol=1e-5, atol=1e-7)

    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    reference = [json.loads(line) for line in (one.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1)), "each step is written once"
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in reference], rel=1e-5)
    names = {path.relative_to(one.run).as_posix() for path in one.run.rglob("*") if path.is_file()}
    assert {p.relative_to(tmp_path / "two").as_posix() for p in (tmp_path / "two").rglob("*") if p.is_file()} == names
