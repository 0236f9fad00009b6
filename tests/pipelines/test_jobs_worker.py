"""Parts of the worker and of a job's process, within the process of the tests."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import ConfigError, Interrupted, JobError
from dreamtune.pipelines import job_process, worker
from dreamtune.pipelines.job_kinds import kind_of
from dreamtune.pipelines.job_lock import take
from dreamtune.pipelines.job_process import Heartbeat
from dreamtune.pipelines.job_store import JobStore
from dreamtune.pipelines.jobs import Job, Jobs
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train import TrainResult
from tests.pipelines.conftest import Submit, start

pytestmark = pytest.mark.usefixtures("home")


def test_other_kinds_stop_with_nothing_written(trained: TrainResult, tiny: Path) -> None:
    kind, stop = kind_of("analyze"), threading.Event()
    stop.set()
    config = kind.config_class(adapters=[str(trained.adapter)], base=str(tiny), steps=1, device="cpu")
    with pytest.raises(Interrupted, match="nothing was written"):
        kind.run(config, Path("report"), lambda progress: None, stop)
    assert not Path("report").exists()


def test_progress_is_told_within_a_moment(
    jobs: Jobs, submit: Submit, held: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit("run")
    start(jobs, job)
    held(job)
    with Heartbeat(JobStore(jobs.home), int(job.id)):
        pass  # there may be nothing to tell
    assert capsys.readouterr().err == ""
    with Heartbeat(JobStore(jobs.home), int(job.id)) as beat:
        beat(Progress("latents", 1, 4))
        beat(Progress("remark", message="a.png is small"))
        beat(Progress("latents", 2, 4))
    told = jobs.get(job.id)
    assert (told.phase, told.done, told.total, told.message) == ("latents", 2, 4, "a.png is small")
    assert told.eta is not None and told.eta > 0
    jobs.stop(job.id)
    with Heartbeat(JobStore(jobs.home), int(job.id)) as beat:
        beat(Progress("train", 1, 8, seconds_left=7.0))
        assert beat.stop.wait(5), "the job hears that it is to stop"
    assert jobs.get(job.id).eta == 7.0


def test_asked_twice_a_job_kills_its_process(
    jobs: Jobs, submit: Submit, held: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it can refuse that."""
    kills: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: kills.append(arguments))
    job = submit("run")
    start(jobs, job)
    held(job)
    for killed in (set(), {(os.getpid(), signal.SIGKILL)}):
        jobs.stop(job.id)
        with Heartbeat(JobStore(jobs.home), int(job.id)) as beat:
            pass
        assert beat.stop.is_set() and set(kills) == killed


def test_what_a_job_starts_does_not_hold_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would seem to run for as long as that does."""
    lock = take(tmp_path / "1.lock")
    assert lock is not None
    os.set_inheritable(lock, True)  # as it comes from the worker
    monkeypatch.setattr(sys, "argv", ["job_process", str(tmp_path), "1", str(lock)])
    monkeypatch.setattr(job_process, "run_job", lambda home, number: os.get_inheritable(lock))
    assert job_process.main() is False
    os.close(lock)


def test_a_process_that_cannot_begin_leaves_a_failed_job(
    jobs: Jobs, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(worker, "launch", no_memory)
    job, stop = submit("run"), threading.Event()
    thread = threading.Thread(target=worker.run_worker, args=(jobs.home, 1, stop, lambda progress: None))
    thread.start()
    job = jobs.wait(job.id, 10)
    with pytest.raises(JobError, match="another worker is at work in"):
        worker.run_worker(jobs.home)
    stop.set()
    thread.join()
    assert (job.state, job.message) == ("failed", "its process could not begin: Cannot allocate memory")
    assert job.resumable


def test_a_job_whose_lock_cannot_be_made_fails_and_the_worker_goes_on(jobs: Jobs, submit: Submit) -> None:
    """As on a full disk, or where somebody has taken the folder's rights."""
    job = submit("run")
    (jobs.home / "locks").write_text("a file where a folder should be")
    worker.run_worker(jobs.home, on_progress=lambda progress: None, idle=0.1)
    assert (jobs.get(job.id).state, jobs.get(job.id).message) == ("failed", "its process could not begin: File exists")


def test_a_worker_without_work_ends_if_it_is_to(home: Path) -> None:
    thread = threading.Thread(target=worker.run_worker, args=(home,), kwargs={"idle": 0.1})
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_workers_below_one(home: Path) -> None:
    with pytest.raises(ConfigError, match="workers = 0: must be 1 or more"):
        worker.run_worker(home, workers=0)
    assert not home.exists()
