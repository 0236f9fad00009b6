"""The queue on the command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.jobs.queue import Job, Jobs
from dreamtune.pipelines.train.run import TrainResult
from tests.pipelines.conftest import Submit, start

pytestmark = pytest.mark.usefixtures("home")


def test_command_line(jobs: Jobs, submit: Submit, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert main(["jobs", *arguments]) == 0
        return capsys.readouterr().out

    def run_json(*arguments: str) -> dict[str, Any]:
        return json.loads(run(*arguments, "--json"))

    assert run("list").startswith("No jobs.")
    assert run_json("list") == {"jobs": []}
    for name in ("one", "two"):
        submit(name)
    assert run("list").splitlines() == [
        "   1  train     queued at 1               one",
        "   2  train     queued at 2               two",
    ]
    listed = run_json("list")["jobs"]
    assert listed[0] == jobs.get("1").to_dict() and listed[0]["out"] == str(Path.cwd() / "one")
    assert run("move", "2", "1") == "job 2 (two) is queued at 1\n"
    assert run_json("cancel", "1")["state"] == "cancelled"
    start(jobs, jobs.get("2"), phase="train", done=3, total=8)
    assert "its process ended without a message" in run("list")
    assert run_json("resume", "2")["position"] == 1
    assert run_json("log", "2", "--lines", "5") == {"id": "2", "log": ""}
    for arguments in (["stop", "2"], ["cancel", "9"], ["move", "2", "0"], ["log", "x"], ["resume", "1"]):
        assert main(["jobs", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("Error: ") and printed.err.count("\n") == 1
    assert main(["worker", "--workers", "0"]) == 2


def test_a_job_that_runs_is_listed_with_its_progress(
    jobs: Jobs, submit: Submit, held: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit("rex")
    held(job)
    for told, shown in (
        ({}, "running"),
        ({"phase": "latents", "done": 1, "total": 4}, "running, latents 1/4"),
        ({"phase": "train", "done": 3, "total": 8, "eta": 7.4}, "running, train 3/8, 0:07 left"),
    ):
        start(jobs, job, **told)
        assert main(["jobs", "list"]) == 0
        assert capsys.readouterr().out == f"   1  train     {shown:24}  rex\n"


def test_queue_option(photos: Path, trained: TrainResult, jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", str(photos), "--class", "dog", "--name", "rex", "--queue"]
    assert main(train) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 1 (rex) is queued at 1",
        "No worker is running: start one with `dreamtune worker`.",
    ]
    file = str(trained.adapter)
    assert main(["analyze", file, "--out", "report", "--queue", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "analyze"
    assert main(["evaluate", file, "--images", str(photos), "--out", "exam", "--queue"]) == 0
    assert main(["fuse", file, "--out", "x.safetensors", "--queue"]) == 0
    assert [(job.kind, job.out) for job in jobs.list()] == [
        ("train", Path.cwd() / "runs" / "rex"),
        ("analyze", Path.cwd() / "report"),
        ("evaluate", Path.cwd() / "exam"),
        ("fuse", Path.cwd() / "x.safetensors"),
    ]
    assert list(Path.cwd().iterdir()) == []
    refused = (
        train,
        ["train", "--resume", str(trained.run), "--queue"],
        [*train[:-2], "other", "--queue", "--dry-run"],
        ["analyze", *train[1:2], *train[-1:]],
    )
    for arguments in refused:
        assert main(arguments) == 2
    assert len(jobs.list()) == 4


def test_looking_at_the_queue_loads_nothing_heavy(submit: Submit) -> None:
    submit("one")
    code = (
        "import sys; from dreamtune.pipelines.jobs.queue import Jobs; import dreamtune.pipelines.jobs.worker; "
        "assert len(Jobs().list()) == 1; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
