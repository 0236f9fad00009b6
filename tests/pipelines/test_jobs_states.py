"""The states of jobs, which follow from what is on the disk."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dreamtune.errors import JobError
from dreamtune.pipelines.jobs import state as job_state
from dreamtune.pipelines.jobs.lock import is_held, take
from dreamtune.pipelines.jobs.queue import Job, Jobs
from dreamtune.pipelines.jobs.state import last_step, log_path
from dreamtune.pipelines.jobs.store import JobStore
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.run import TrainResult
from tests.pipelines.conftest import Submit, start

pytestmark = pytest.mark.usefixtures("home")


def test_state_of_a_process_that_lives(jobs: Jobs, submit: Submit, held: Callable[[Job], None]) -> None:
    job = submit("run")
    start(jobs, job)
    held(job)
    assert jobs.get(job.id).state == "running"
    for ask, message in (
        (jobs.cancel, "job 1 is running, no longer in the queue: stop it instead"),
        (jobs.resume, "job 1 is running, .*it has not ended yet"),
    ):
        with pytest.raises(JobError, match=message):
            ask(job.id)
    with pytest.raises(JobError, match="job 1 already writes"):
        submit("run")
    assert jobs.stop(job.id).state == "stopping"
    assert jobs.wait(job.id, 0.2).state == "stopping", "wait gives up"
    row = JobStore(jobs.home).get(1)
    assert row is not None and row.stop == 1
    jobs.stop(job.id)
    row = JobStore(jobs.home).get(1)
    assert row is not None and row.stop == 2


def test_state_of_a_process_that_was_killed_follows_from_the_run_folder(jobs: Jobs, submit: Submit) -> None:
    job = submit("run")
    start(jobs, job, phase="train", done=3, total=8, eta=4.0)
    lost = jobs.get(job.id)
    assert (lost.state, lost.resumable, lost.eta, lost.done) == ("interrupted", True, None, 3)
    assert lost.message and lost.message.startswith("its process ended without a message")
    with pytest.raises(JobError, match="not running: there is nothing to stop"):
        jobs.stop(job.id)
    folder = RunFolder(job.out)
    folder.path.mkdir()
    folder.metrics.write_text('{"step": 6}\n{"step": 7}\n{"st')
    assert jobs.get(job.id).done == 7, "steps that the table was not told of"
    folder.report.write_text("{}")
    ended = jobs.get(job.id)
    assert (ended.state, ended.resumable, ended.message) == ("done", False, None), "killed after its last step"


def test_a_job_resumed_by_the_command_line_is_done(jobs: Jobs, submit: Submit) -> None:
    job = submit("run")
    JobStore(jobs.home).update(1, state="interrupted", message="stopped")
    assert jobs.get(job.id).state == "interrupted"
    job.out.mkdir()
    (job.out / "report.json").write_text("{}")
    assert (jobs.get(job.id).state, jobs.get(job.id).message) == ("done", None)


def test_a_job_that_ends_while_one_looks_is_not_taken_for_lost(
    jobs: Jobs, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit("run")
    start(jobs, job)

    def ends_just_now(path: Path) -> bool:
        JobStore(jobs.home).update(int(job.id), state="failed", message="no memory")
        return False

    monkeypatch.setattr(job_state, "is_held", ends_just_now)
    assert (jobs.get(job.id).state, jobs.get(job.id).message) == ("failed", "no memory")


def test_state_of_other_kinds_follows_from_what_they_write(jobs: Jobs, trained: TrainResult) -> None:
    fuse = jobs.submit("fuse", {"adapters": [str(trained.adapter)]}, "x.safetensors")
    analyze = jobs.submit("analyze", {"adapters": [str(trained.adapter)]}, "report")
    analyze.out.mkdir()
    for job, file in ((fuse, fuse.out), (analyze, analyze.out / "report.html")):
        start(jobs, job)
        assert jobs.get(job.id).state == "interrupted"
        file.touch()
        assert jobs.get(job.id).state == "done"


def test_a_run_in_use_is_not_resumed(jobs: Jobs, submit: Submit) -> None:
    job = submit("run")
    start(jobs, job)
    with RunFolder(job.out).exclusive(), pytest.raises(JobError, match="another process is training in"):
        jobs.resume(job.id)
    assert jobs.resume(job.id).state == "queued"


def test_a_job_whose_place_another_one_has_is_not_resumed(jobs: Jobs, submit: Submit) -> None:
    job = submit("run")
    JobStore(jobs.home).update(int(job.id), state="failed", message="no memory")
    submit("run")
    with pytest.raises(
        JobError, match=r"job 2 already writes to .*run: choose another output path, or cancel that job"
    ):
        jobs.resume(job.id)
    assert jobs.get(job.id).state == "failed"
    jobs.cancel("2")
    assert jobs.resume(job.id).state == "queued"


def test_of_many_who_resume_a_job_one_does(jobs: Jobs, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others find it in the queue, or begun: a job that runs is never put there again."""
    is_held = RunFolder.is_held
    monkeypatch.setattr(RunFolder, "is_held", lambda folder: time.sleep(0.1) or is_held(folder))
    job = submit("run")
    JobStore(jobs.home).update(int(job.id), state="failed", message="no memory")

    def resume(_: int) -> bool:
        try:
            jobs.resume(job.id)
        except JobError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(resume, range(8))) == 1


def test_running_jobs_come_first_then_the_queue_then_the_newest(
    jobs: Jobs, submit: Submit, held: Callable[[Job], None]
) -> None:
    for name in "abcde":
        submit(name)
    store = JobStore(jobs.home)
    store.update(1, state="done", started=10.0)
    store.update(2, state="failed", started=20.0)
    store.update(4, state="started")
    held(jobs.get("4"))
    assert [job.title for job in jobs.list()] == ["d", "c", "e", "b", "a"]


def test_the_last_step_of_a_long_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert last_step(folder) is None
    folder.metrics.write_text("")
    assert last_step(folder) is None
    folder.metrics.write_text("".join(f'{{"step": {n}, "x": "{"y" * 200}"}}\n' for n in range(1, 3000)) + '{"step": 3')
    assert last_step(folder) == 2999


def test_log(jobs: Jobs, submit: Submit) -> None:
    job = submit("run")
    assert jobs.log(job.id) == ""
    path = log_path(jobs.home, int(job.id))
    path.parent.mkdir()
    path.write_bytes(b"one\ntwo \xff\nthree\n")
    assert jobs.log(job.id, lines=2) == "two �\nthree\n"


def test_lock(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "1.lock"
    assert not is_held(path)
    lock = take(path)
    assert lock is not None and is_held(path) and take(path) is None
    os.close(lock)
    assert not is_held(path)
