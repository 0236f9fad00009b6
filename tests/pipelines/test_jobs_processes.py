"""Jobs in real processes: they end as if done by hand, and no kill of anything loses one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dreamtune.errors import JobError
from dreamtune.pipelines.jobs import worker
from dreamtune.pipelines.jobs.queue import Job, Jobs
from dreamtune.pipelines.jobs.worker import LOG, WorkerProcess
from dreamtune.pipelines.train.run import TrainResult, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import Encoders
from tests.pipelines.workers import Workers, kill_job, kill_worker, until

LONG = 30
"""Steps of a training that can be met in the middle."""


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """An empty queue, whose worker and jobs are ended with the test."""
    jobs = Jobs(tmp_path / "home")
    yield jobs
    WorkerProcess(jobs.home).stop()
    for job in jobs.list():
        if job.state in ("running", "stopping"):
            kill_job(jobs.home, job.id)


@pytest.fixture(scope="module")
def long(settings: Callable[..., TrainConfig]) -> TrainConfig:
    return settings(steps=LONG, checkpoint_every=5, batch_size=1, prior=False)


@pytest.fixture(scope="module")
def whole(long: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of that training, done without a queue by a process with one thread, as the jobs here are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = train(long, tmp_path_factory.mktemp("whole") / "run", on_progress=lambda _: None)
    finally:
        torch.set_num_threads(threads)
    return result.adapter.read_bytes()


@pytest.fixture
def two(jobs: Jobs, long: TrainConfig, tmp_path: Path) -> tuple[Job, Job]:
    """Two of those trainings, which wait: the first to be disturbed, the other for its turn."""
    return jobs.submit("train", long, tmp_path / "run"), jobs.submit("train", long, tmp_path / "next")


def steps(job: Job) -> list[int]:
    file = job.out / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def until_step(job: Job, step: int) -> None:
    until(lambda: len(steps(job)) >= step)


def done(jobs: Jobs, job: Job) -> Job:
    """The job, which must end well."""
    job = jobs.wait(job.id, 240)
    assert job.state == "done", jobs.log(job.id)
    return job


def check_whole(job: Job, whole: bytes) -> None:
    assert (job.out / "adapter.safetensors").read_bytes() == whole
    assert steps(job) == list(range(1, LONG + 1))


def test_jobs_run_one_after_the_other_from_the_folder_where_they_were_given(
    workers: Workers,
    jobs: Jobs,
    settings: Callable[..., TrainConfig],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(photos, tmp_path / "here" / "dog")
    monkeypatch.chdir(tmp_path / "here")
    same = settings(images=Path("dog"))
    first, second = jobs.submit("train", same, "one"), jobs.submit("train", same, "two", title="the second")
    monkeypatch.chdir(tmp_path)
    workers.start(jobs.home)
    first, second = done(jobs, first), done(jobs, second)
    assert first.out == tmp_path / "here" / "one"
    assert (second.out / "adapter.safetensors").read_bytes() == (first.out / "adapter.safetensors").read_bytes()
    assert first.started and first.finished and second.started and second.finished
    assert first.finished <= second.started
    assert (first.phase, first.done, first.total, first.eta, first.message) == ("train", 6, 6, None, None)
    assert "train 6/6" in jobs.log(first.id)
    assert [job.id for job in jobs.list()] == ["2", "1"]
    told = (jobs.home / LOG).read_text()
    assert "job 2: train the second\n" in told


@pytest.mark.slow
def test_two_at_a_time(workers: Workers, jobs: Jobs, long: TrainConfig, tmp_path: Path) -> None:
    three = [jobs.submit("train", long, tmp_path / str(n)) for n in range(3)]
    workers.start(jobs.home, workers=2)
    until(lambda: [job.state for job in jobs.list()] == ["running", "running", "queued"])
    assert jobs.get(three[2].id).position == 1
    first = min((jobs.wait(job.id, 240) for job in three[:2]), key=lambda job: job.finished or 0.0)
    third = done(jobs, three[2])
    assert third.started and first.finished and third.started >= first.finished


@pytest.mark.slow
def test_other_kinds(
    workers: Workers, jobs: Jobs, trained: TrainResult, photos: Path, tiny: Path, encoders: Encoders, tmp_path: Path
) -> None:
    file = str(trained.adapter)
    few = {"base": str(tiny), "steps": 1, "device": "cpu"}
    examined = {"adapter": file, "images": str(photos), "n": 1, "size": 32, **encoders._asdict()}
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a {token} {class} on a beach\n")
    given = [
        jobs.submit("fuse", {"adapters": [file]}, tmp_path / "fused.safetensors"),
        jobs.submit("analyze", {"adapters": [file], "interference": False, **few}, tmp_path / "report"),
        jobs.submit("evaluate", {**examined, **few, "prompts": str(prompts)}, tmp_path / "exam"),
    ]
    workers.start(jobs.home)
    for job in given:
        done(jobs, job)
    assert (tmp_path / "fused.safetensors").is_file()
    assert (tmp_path / "report" / "report.html").is_file()
    assert (tmp_path / "exam" / "report.json").is_file()


def test_stopped_and_resumed_it_ends_bitwise_the_same(
    workers: Workers, jobs: Jobs, long: TrainConfig, whole: bytes, tmp_path: Path
) -> None:
    job = jobs.submit("train", long, tmp_path / "run")
    workers.start(jobs.home)
    until_step(job, 7)
    assert jobs.get(job.id).state == "running"
    assert jobs.stop(job.id).state == "stopping"
    job = jobs.wait(job.id, 60)
    assert job.state == "interrupted" and job.resumable and job.finished and job.message
    assert job.message.startswith("stopped after step ") and f"--resume {job.out}" in job.message
    assert (job.phase, job.total) == ("train", LONG) and job.done == len(steps(job)) < LONG
    assert list((job.out / "checkpoints").glob(f"step-{job.done:06d}"))
    job = jobs.resume(job.id)
    assert (job.state, job.message, job.position) == ("queued", None, 1)
    check_whole(done(jobs, job), whole)


@pytest.mark.slow
def test_told_to_stop_twice_it_ends_at_once_and_can_be_resumed(
    workers: Workers, jobs: Jobs, long: TrainConfig, whole: bytes, tmp_path: Path
) -> None:
    job = jobs.submit("train", long, tmp_path / "run")
    workers.start(jobs.home)
    until_step(job, 7)
    jobs.stop(job.id)
    jobs.stop(job.id)
    job = jobs.wait(job.id, 60)
    assert job.state == "interrupted" and len(steps(job)) < LONG
    check_whole(done(jobs, jobs.resume(job.id)), whole)


@pytest.mark.slow
def test_kill_of_a_job(workers: Workers, jobs: Jobs, two: tuple[Job, Job], whole: bytes) -> None:
    """The worker tells why, and goes on with the next."""
    job, next_job = two
    workers.start(jobs.home)
    until_step(job, 7)
    kill_job(jobs.home, job.id)
    assert jobs.get(job.id).state == "interrupted"
    until(lambda: jobs.get(next_job.id).state == "running")
    job = jobs.get(job.id)
    assert job.message == "its process was killed, by a user or because memory ran out"
    assert job.finished and job.resumable and job.done == len(steps(job))
    jobs.resume(job.id)
    check_whole(done(jobs, next_job), whole)
    check_whole(done(jobs, job), whole)


@pytest.mark.slow
def test_kill_of_the_worker(workers: Workers, jobs: Jobs, two: tuple[Job, Job], whole: bytes) -> None:
    """The job goes on; a new worker does not begin another beside it."""
    job, next_job = two
    pid = workers.start(jobs.home)
    until_step(job, 3)
    kill_worker(jobs.home, pid)
    assert jobs.get(job.id).state == "running"
    workers.start(jobs.home)
    until_step(job, 12)
    assert [it.state for it in jobs.list()] == ["running", "queued"]
    job, next_job = done(jobs, job), done(jobs, next_job)
    assert job.finished and next_job.started and job.finished <= next_job.started
    check_whole(job, whole)


@pytest.mark.slow
def test_kill_of_the_worker_and_its_job(workers: Workers, jobs: Jobs, two: tuple[Job, Job], whole: bytes) -> None:
    """As when the machine goes down: nobody is left to write down what became of it."""
    job, next_job = two
    pid = workers.start(jobs.home)
    until_step(job, 7)
    kill_worker(jobs.home, pid)
    kill_job(jobs.home, job.id)
    lost = jobs.get(job.id)
    assert (lost.state, lost.resumable, lost.eta) == ("interrupted", True, None)
    assert lost.message and lost.message.startswith("its process ended without a message")
    assert jobs.get(next_job.id).position == 1
    resumed = jobs.resume(job.id)
    assert resumed.position == 2
    workers.start(jobs.home)
    check_whole(done(jobs, next_job), whole)
    check_whole(done(jobs, job), whole)


@pytest.mark.parametrize("how", ["asked", "SIGTERM", "SIGINT"])
def test_end_of_the_worker_stops_its_jobs_with_a_checkpoint(
    workers: Workers, jobs: Jobs, two: tuple[Job, Job], how: str
) -> None:
    job, next_job = two
    pid = workers.start(jobs.home)
    until_step(job, 3)
    if how == "asked":
        assert WorkerProcess(jobs.home).stop()
    else:
        os.kill(pid, getattr(signal, how))
        until(lambda: not WorkerProcess(jobs.home).alive())
    job = jobs.get(job.id)
    assert job.state == "interrupted" and job.message and job.message.startswith("stopped after step ")
    assert jobs.get(next_job.id).state == "queued"
    assert "job 1: interrupted: stopped after step " in (jobs.home / LOG).read_text()


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_the_next_one_begins(
    workers: Workers, jobs: Jobs, settings: Callable[..., TrainConfig], tiny: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(tiny, gone)
    job = jobs.submit("train", settings(base=str(gone)), tmp_path / "run")
    next_job = jobs.submit("train", settings(), tmp_path / "next")
    shutil.rmtree(gone)
    workers.start(jobs.home)
    done(jobs, next_job)
    job = jobs.get(job.id)
    assert (job.state, job.resumable) == ("failed", True)
    assert job.message and "no base model" in job.message
    assert f"Error: {job.message}" in jobs.log(job.id)
    assert not job.out.exists()
    shutil.copytree(tiny, gone)
    done(jobs, jobs.resume(job.id))


@pytest.mark.slow
def test_worker_of_a_user_interface(
    jobs: Jobs, tmp_path: Path, long: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It outlives who started it, and can be started anew. The job's process is a real one too, which ends early."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    job = jobs.submit("train", long, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cwd").rmdir()
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user, which is called like a library')")
    process = WorkerProcess(jobs.home)
    assert not process.alive()
    interface = (
        "import os, signal, sys; from pathlib import Path; from dreamtune.pipelines.jobs.worker import WorkerProcess; "
        "WorkerProcess(Path(sys.argv[1])).ensure(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", interface, str(jobs.home)]).returncode == -signal.SIGKILL
    assert process.alive()
    job = jobs.wait(job.id, 60)
    assert (job.state, job.message) == (
        "failed",
        f"cannot open {tmp_path / 'cwd'}, the folder the job was submitted from: No such file or directory",
    )
    assert process.stop(), "also one that another process has started"
    process.ensure()
    process.ensure()
    assert process.alive()
    kill_worker(jobs.home, worker._started[jobs.home].pid)
    process.ensure()
    assert process.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_of_everything_as_it_is_installed(
    jobs: Jobs, long: TrainConfig, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No forks: the worker, its jobs and their ends are what users have."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = long.changed(sample_every=1, sample_prompts=("a {token} {class}",) * 2)  # which only takes time
    job, next_job = jobs.submit("train", config, tmp_path / "run"), jobs.submit("train", long, tmp_path / "next")
    process = WorkerProcess(jobs.home)
    process.ensure()
    until_step(job, 7)
    kill_worker(jobs.home, worker._started[jobs.home].pid)
    assert jobs.get(job.id).state == "running"
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"jobs.process\0{jobs.home}\0" in (entry / "cmdline").read_text():
                os.kill(int(entry.name), signal.SIGKILL)
    until(lambda: jobs.get(job.id).state == "interrupted")
    jobs.resume(job.id)
    process.ensure()
    check_whole(done(jobs, next_job), whole)
    check_whole(done(jobs, job), whole)


def test_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite").write_text("no table")
    with pytest.raises(JobError, match=r"did not start: .*queue.sqlite: file is not a database"):
        WorkerProcess(tmp_path).ensure()
