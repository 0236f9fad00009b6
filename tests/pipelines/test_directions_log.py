"""The course of an adapter's directions: written while it is trained, compared with itself and with others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dreamtune
from dreamtune.adapters import AdapterFile, Delta
from dreamtune.adapters.svd import default_store
from dreamtune.analysis import tsd
from dreamtune.errors import RunFolderError
from dreamtune.models import load_base
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.directions_log import DirectionsLog, read_directions
from dreamtune.pipelines.train.run import TrainResult, train
from dreamtune.training.config import TrainConfig


@pytest.fixture(scope="module")
def tracked(settings: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(settings(track_tsd=2, lr=1e-2), tmp_path_factory.mktemp("runs") / "tracked")


def test_lines_are_those_of_the_adapter(tracked: TrainResult, tiny: Path) -> None:
    found = read_directions(tracked.run)
    assert list(found) == [2, 4, 6]
    file = AdapterFile.load(tracked.adapter)
    weights = file.weights(load_base(tiny, "cpu").parts)
    for path, adapter in file.adapters().items():
        with torch.no_grad():
            expected = tsd(default_store().full(weights[path]), Delta.of_adapter(adapter, weights[path]), 16)
        assert found[6][path].tolist() == expected.tolist()


def test_report_says_how_early_they_were_known(tracked: TrainResult) -> None:
    told = json.loads((tracked.run / "report.json").read_text())["tsd"]
    assert [line["step"] for line in told] == [2, 4, 6]
    assert (told[-1]["recall"], told[-1]["accuracy"]) == (1, 1)
    assert 0 < told[0]["recall"] < 1


def test_a_run_is_compared_with_other_adapters(tracked: TrainResult, tiny: Path, tmp_path: Path) -> None:
    report = dreamtune.analyze(
        [tracked.adapter], tmp_path / "r", base=str(tiny), trajectories=[str(tracked.run)], interference=False
    )
    (one,) = report.to_dict()["trajectories"]
    told = json.loads((tracked.run / "report.json").read_text())["tsd"]
    assert (one["run"], one["true"]) == ("tracked", 0)
    assert one["predictions"] == told
    assert (tmp_path / "r" / "trajectory.png").is_file()


def test_steps_that_are_done_again_are_forgotten(
    tracked: TrainResult, settings: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "tsd.jsonl").write_text((tracked.run / "tsd.jsonl").read_text())
    DirectionsLog(folder, settings(track_tsd=2), None).start(4)  # pyright: ignore[reportArgumentType]
    assert list(read_directions(tmp_path)) == [2, 4]


def test_a_run_without_is_told(trained: TrainResult, tiny: Path) -> None:
    assert not (trained.run / "tsd.jsonl").exists()
    with pytest.raises(RunFolderError, match="--track-tsd"):
        dreamtune.analyze([trained.adapter], base=str(tiny), trajectories=[str(trained.run)])
