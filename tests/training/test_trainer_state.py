"""What is kept from step to step: averages, resuming, and weights that a step may not spoil."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamtune.errors import Interrupted, RunFolderError, TrainingError
from dreamtune.training.checkpoints import Checkpoint, latest
from tests.training.tiny_trainings import PLAIN, Run, make_config, make_unet, same


def test_averages_are_what_is_seen_and_kept(tmp_path: Path) -> None:
    """Training goes on from the raw weights; listeners, files and the result have the average."""
    seen: list[dict[str, Tensor]] = []
    plain = Run(tmp_path, PLAIN, make_config(steps=5))
    config = make_config(steps=5, ema_decay=0.9)
    run = Run(
        tmp_path,
        PLAIN,
        config,
        look=lambda run: seen.append({name: tensor.clone() for name, tensor in run.weights.items()}),
    )
    assert run.losses == plain.losses, "the average must not act on training"
    assert not same(run, plain)
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    state, written = checkpoint.load(), load_file(checkpoint.path / "weights.safetensors")
    for name, tensor in run.weights.items():
        assert torch.equal(seen[-1][name], tensor)
        assert torch.equal(written[name], tensor)
        assert torch.equal(state["adapter"][name], plain.weights[name])


def test_averages_survive_an_interruption(tmp_path: Path) -> None:
    config = make_config(steps=6, ema_decay=0.9)
    whole = Run(tmp_path / "a", PLAIN, config)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        Run(tmp_path / "b", PLAIN, config, look=lambda run: stop.set() if len(run.records) == 2 else None, stop=stop)
    rest = Run(tmp_path / "b", PLAIN, config, resume=True)
    assert [record.step for record in rest.records] == [3, 4, 5, 6]
    assert same(rest, whole)


def test_dropout_is_resumed_exactly(tmp_path: Path) -> None:
    config = make_config(steps=4)
    whole = Run(tmp_path / "a", PLAIN, config, dropout=0.5)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        Run(tmp_path / "b", PLAIN, config, dropout=0.5, look=lambda run: stop.set(), stop=stop)
    assert same(Run(tmp_path / "b", PLAIN, config, dropout=0.5, resume=True), whole)


def test_other_number_of_processes_does_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, stop, load = make_config(steps=4), threading.Event(), Checkpoint.load
    with pytest.raises(Interrupted):
        Run(tmp_path, PLAIN, config, look=lambda run: stop.set(), stop=stop)

    def as_if_by_two(self: Checkpoint) -> dict[str, Any]:
        state = load(self)
        state["progress"]["processes"] += 1
        return state

    monkeypatch.setattr(Checkpoint, "load", as_if_by_two)
    with pytest.raises(RunFolderError, match="was trained with 2 processes, not 1: launch 2 processes"):
        Run(tmp_path, PLAIN, config, resume=True)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_stops_before_the_weights_change(tmp_path: Path, what: str) -> None:
    """A gradient alone may be damaged, after a good loss."""
    unet, seen, runs = make_unet(), list[dict[str, Tensor]](), list[Run]()

    def damage(run: Run) -> None:
        runs.append(run)
        seen.append({name: tensor.clone() for name, tensor in run.weights.items()})
        if len(seen) != 2:
            return
        if what == "loss":
            torch.nn.init.constant_(unet.conv_out.weight, float("nan"))
        else:
            next(run.attached.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(TrainingError, match=rf"the {what} became (nan|inf) at step 3; .*; the checkpoint of step 2 is"):
        Run(tmp_path, PLAIN, make_config(steps=4, checkpoint_every=2), unet, look=damage)
    assert all(torch.equal(tensor, seen[-1][name]) for name, tensor in runs[0].weights.items())
