"""A training as its folder shows it while it is being written."""

import json
from pathlib import Path

from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.run_view import POINTS, read_run


def line(step: int, loss: float) -> str:
    return json.dumps({"step": step, "loss": loss}) + "\n"


def test_the_curve_grows_by_what_is_new(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_run(tmp_path).losses == ()
    folder.metrics.write_text(line(1, 0.5) + line(2, 1.5))
    assert read_run(tmp_path).losses == ((1, 0.5), (2, 1.0))
    with open(folder.metrics, "r+") as file:  # what has been read is not read again, however long it is
        file.write("#" * len(line(1, 0.5)))
    with open(folder.metrics, "a") as file:
        file.write(line(3, 4.0) + '{"step": 4, "lo')
    assert read_run(tmp_path).losses == ((1, 0.5), (2, 1.0), (3, 2.0))
    with open(folder.metrics, "a") as file:
        file.write('ss": 2.0}\n' + "damaged\n[]\n" + '{"step": 5}\n')
    assert read_run(tmp_path).losses == ((1, 0.5), (2, 1.0), (3, 2.0), (4, 2.0))


def test_a_resumed_run_takes_back_what_it_does_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("".join(line(step, 1.0) for step in range(1, 6)))
    assert len(read_run(tmp_path).losses) == 5
    folder.cut_metrics(2)
    with open(folder.metrics, "a") as file:
        file.write("".join(line(step, 3.0) for step in range(3, 9)))  # and more than there were
    assert read_run(tmp_path).losses[1:4] == ((2, 1.0), (3, 5 / 3), (4, 2.0))
    folder.metrics.unlink()
    assert read_run(tmp_path).losses == ()


def test_a_long_curve_is_thinned_and_ends_where_the_training_is(tmp_path: Path) -> None:
    RunFolder(tmp_path).metrics.write_text("".join(line(step, 1.0) for step in range(1, 10 * POINTS)))
    losses = read_run(tmp_path).losses
    assert POINTS <= len(losses) <= 1.2 * POINTS
    assert losses[0][0] == 1 and losses[-1][0] == 10 * POINTS - 1
