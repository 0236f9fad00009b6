"""Parts of the worker and of a job's process, within the process of the tests."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dreamtune.errors import ConfigError, Interrupted, JobError
from dreamtune.pipelines.jobs import process as job_process
from dreamtune.pipelines.jobs import worker
from dreamtune.pipelines.jobs.kinds import kind_of
from dreamtune.pipelines.jobs.lock import kill_holder, take
from dreamtune.pipelines.jobs.process import Heartbeat
from dreamtune.pipelines.jobs.queue import Job, Jobs
from dreamtune.pipelines.jobs.state import lock_path
from dreamtune.pipelines.jobs.store import JobStore
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import TrainResult
from tests.pipelines.conftest import Submit, start
from tests.pipelines.workers import until

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


STUCK = """
import ctypes, os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.set_inheritable(int(sys.argv[1]), False)
child = os.fork()
if child:
    open(sys.argv[2], "w").write(f"{os.getpid()} {child}")
ctypes.PyDLL(None).sleep(600)  # which keeps the interpreter's lock: no thread of it runs
"""


@pytest.fixture
def stuck(jobs: Jobs, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose process, and one that it has started, will be within C and hear no signal but SIGKILL."""

    def launch(home: Path, number: int, lock: int) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-S", "-c", STUCK, str(lock), str(tmp_path / "ids")]
        return subprocess.Popen(arguments, pass_fds=(lock,), start_new_session=True)

    monkeypatch.setattr(worker, "launch", launch)
    return submit("run")


def _has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@contextlib.contextmanager
def _at_work(jobs: Jobs) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=worker.run_worker, args=(jobs.home, 1, stop, lambda progress: None))
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.parametrize("by", ["its worker", "a later worker", "nobody but who stops it"])
def test_stopped_twice_any_job_ends_at_once(jobs: Jobs, stuck: Job, tmp_path: Path, by: str) -> None:
    """Also one that is within a call into C, with what it has started; what it wrote stays."""
    ids, parent = tmp_path / "ids", None
    if by != "its worker":
        earlier = worker._Worker(JobStore(jobs.home), 1, lambda progress: None)
        assert earlier._start_next()
        parent = earlier._children.pop(int(stuck.id))
    with contextlib.nullcontext() if by == "nobody but who stops it" else _at_work(jobs):
        until(lambda: ids.exists() and len(ids.read_text().split()) == 2)
        stuck.out.mkdir()
        (stuck.out / "metrics.jsonl").write_text('{"step": 4}\n')
        began = time.monotonic()
        assert jobs.stop(stuck.id).state == "stopping"
        assert jobs.wait(stuck.id, 0.7).state == "stopping", "it hears nothing"
        jobs.stop(stuck.id)
        job = jobs.wait(stuck.id, 10)
        assert time.monotonic() - began < 10
        assert parent is None or parent.wait() == -signal.SIGKILL
    assert (job.state, job.message, job.resumable) == ("interrupted", "stopped immediately", True)
    until(lambda: all(_has_ended(int(pid)) for pid in ids.read_text().split()), 10)
    assert (stuck.out / "metrics.jsonl").read_text() == '{"step": 4}\n'
    assert jobs.resume(stuck.id).state == "queued"


def test_a_lock_whose_file_names_another_process_kills_nobody(
    jobs: Jobs, submit: Submit, held: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another container does, whose numbers mean nothing here."""
    monkeypatch.setattr(os, "killpg", lambda *arguments: pytest.fail("killed"))
    job = submit("run")
    start(jobs, job)
    held(job)
    lock = lock_path(jobs.home, int(job.id))
    for text in ("", "x", f"{os.getpid()}", f"{os.getpid()} 12.0", f"{os.getpid()} nan", "99999999 1.0"):
        lock.write_text(text)
        kill_holder(lock)


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
    with pytest.raises(JobError, match="another worker is already running in"):
        worker.run_worker(jobs.home)
    stop.set()
    thread.join()
    assert (job.state, job.message) == ("failed", "its process could not start: Cannot allocate memory")
    assert job.resumable


def test_a_job_whose_lock_cannot_be_made_fails_and_the_worker_goes_on(jobs: Jobs, submit: Submit) -> None:
    """As on a full disk, or where somebody has taken the folder's rights."""
    job = submit("run")
    (jobs.home / "locks").write_text("a file where a folder should be")
    worker.run_worker(jobs.home, on_progress=lambda progress: None, idle=0.1)
    assert (jobs.get(job.id).state, jobs.get(job.id).message) == ("failed", "its process could not start: File exists")


def test_a_worker_without_work_ends_if_it_is_to(home: Path) -> None:
    thread = threading.Thread(target=worker.run_worker, args=(home,), kwargs={"idle": 0.1})
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_workers_below_one(home: Path) -> None:
    with pytest.raises(ConfigError, match="workers = 0 must be at least 1"):
        worker.run_worker(home, workers=0)
    assert not home.exists()
