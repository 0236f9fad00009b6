"""The queue of jobs as it is used: what it refuses, its order, and the states that follow from what is on the disk."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import ConfigError, DreamtuneError, Interrupted, JobError
from dreamtune.pipelines import job_state, worker
from dreamtune.pipelines.cli import main
from dreamtune.pipelines.job_kinds import kind_of
from dreamtune.pipelines.job_lock import is_held, take
from dreamtune.pipelines.job_process import Heartbeat
from dreamtune.pipelines.job_state import last_step, lock_path, log_path
from dreamtune.pipelines.job_store import JobStore
from dreamtune.pipelines.jobs import Job, Jobs, jobs_home
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train import TrainResult
from dreamtune.training.config import TrainConfig

Submit = Callable[[str], Job]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The queue's folder, not there yet, and an empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DREAMTUNE_JOBS", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def jobs(home: Path) -> Jobs:
    return Jobs(home)


@pytest.fixture
def submit(jobs: Jobs, photos: Path, tiny: Path) -> Submit:
    """Put a training with the run folder `name` into the queue."""

    def put(name: str) -> Job:
        return jobs.submit("train", {"images": str(photos), "class_word": "dog", "base": str(tiny)}, name)

    return put


def start(jobs: Jobs, job: Job, **values: Any) -> None:
    """Let the table say that a worker has started the job."""
    assert JobStore(jobs.home).update(int(job.id), state="started", started=2.0, **values)


def order(jobs: Jobs) -> list[str]:
    queued = [job for job in jobs.list() if job.state == "queued"]
    assert [job.position for job in queued] == list(range(1, len(queued) + 1))
    return [job.title for job in queued]


def test_a_job_waits_in_a_queue_that_others_see(jobs: Jobs, submit: Submit, home: Path) -> None:
    assert jobs.list() == [] and not home.exists(), "looking writes nothing"
    job = submit("runs/rex")
    assert job.out == Path.cwd() / "runs" / "rex" and not job.out.exists()
    assert (job.kind, job.title, job.state, job.position, job.resumable) == ("train", "rex", "queued", 1, False)
    assert (job.started, job.finished, job.done, job.total, job.phase, job.eta, job.message) == (None,) * 7
    assert submit("max").position == 2
    assert Jobs().list() == [job, jobs.get("2")], "of a process that comes later, by DREAMTUNE_JOBS"


def test_what_was_not_set_is_left_to_presets(jobs: Jobs, settings: Callable[..., TrainConfig], home: Path) -> None:
    config = settings(method="loha", base="pocket")
    jobs.submit("train", config, "run")
    row = JobStore(home).get(1)
    assert row is not None
    again = TrainConfig(**json.loads(row.config))
    assert again == config and again.model_fields_set == config.model_fields_set


@pytest.mark.parametrize(
    ("name", "position", "expected"),
    [("a", 3, "bca"), ("c", 1, "cab"), ("b", 2, "abc"), ("b", 1, "bac"), ("a", 99, "bca")],
)
def test_order(jobs: Jobs, submit: Submit, name: str, position: int, expected: str) -> None:
    numbers = {title: submit(title).id for title in "abc"}
    assert order(jobs) == ["a", "b", "c"]
    moved = jobs.move(numbers[name], position)
    assert moved.position == expected.index(name) + 1
    assert order(jobs) == list(expected)
    submit("d")
    assert order(jobs) == [*expected, "d"]


def test_cancelled_it_is_out_of_the_queue_for_good(jobs: Jobs, submit: Submit) -> None:
    first, second = submit("one"), submit("two")
    cancelled = jobs.cancel(first.id)
    assert (cancelled.state, cancelled.position, cancelled.resumable) == ("cancelled", None, False)
    assert cancelled.finished is not None
    assert order(jobs) == ["two"]
    with pytest.raises(JobError, match="job 1 is cancelled, no longer in the queue: there is nothing to cancel"):
        jobs.cancel(first.id)
    with pytest.raises(JobError, match="job 1 is cancelled, no longer in the queue: its place cannot change"):
        jobs.move(first.id, 1)
    with pytest.raises(JobError, match="job 1 is cancelled.*give it anew"):
        jobs.resume(first.id)
    again = submit("one")
    assert int(again.id) > int(second.id), "numbers are never given twice"


def test_one_place_is_for_one_job(jobs: Jobs, submit: Submit) -> None:
    submit("one")
    for same in ("one", "../here/./one", str(Path.cwd() / "one")):
        with pytest.raises(JobError, match=r"job 1 is going to write to .*one: choose another place, or cancel it"):
            submit(same)
    jobs.cancel("1")
    assert submit("one").state == "queued"


@pytest.mark.parametrize(
    ("kind", "config", "out", "error"),
    [
        ("train", {}, "run", "images is missing"),
        ("train", {"class_word": "dog", "images": "none"}, "run", "no folder of pictures at none"),
        ("train", {"class_word": "dog", "images": "{photos}", "step": 3}, "run", "did you mean 'steps'"),
        ("train", {"class_word": "dog", "images": "{photos}", "method": "lorra"}, "run", "did you mean 'lora'"),
        ("train", {"class_word": "dog", "images": "{photos}"}, "{photos}/0.png/x", "is a file, not a folder"),
        ("train", {"class_word": "dog", "images": "{photos}"}, "{trained}", "exists already"),
        ("train", {"class_word": "dog", "images": "{photos}"}, "a\0b", "is no path"),
        ("fuse", {"adapters": ["none.safetensors"]}, "x.safetensors", "no adapter file none.safetensors"),
        ("fuse", {"adapters": []}, "x.safetensors", "adapters"),
        ("fuse", {"adapters": ["{adapter}"]}, "x", "ends in .safetensors"),
        ("fuse", {"adapters": ["{adapter}"]}, "{adapter}", "is there already"),
        ("fuse", {"adapters": ["{adapter}"], "method": "tie"}, "x.safetensors", "'tie' must be one of sum"),
        ("analyze", {"adapters": ["{adapter}"], "layers": "nowhere"}, "x", "none of the"),
        ("analyze", {"adapters": ["{adapter}"]}, "{trained}", "holds something already"),
        ("evaluate", {"adapter": "{adapter}", "images": "none"}, "x", "no folder of pictures at none"),
        (
            "evaluate",
            {"adapter": "{adapter}", "images": "{photos}", "prompts": "no.txt"},
            "x",
            "cannot read the prompts",
        ),
        ("generate", {"prompts": ["a dog"]}, "x", "no kind of job 'generate': there are train, fuse"),
    ],
)
def test_bad_input_is_refused_at_once(
    kind: Any, config: dict[str, Any], out: str, error: str, jobs: Jobs, photos: Path, trained: TrainResult
) -> None:
    places = {"photos": photos, "trained": trained.run, "adapter": trained.adapter}

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(it) for it in value]
        return value.format(**places) if isinstance(value, str) else value

    with pytest.raises(DreamtuneError, match=error):
        jobs.submit(kind, {key: filled(value) for key, value in config.items()}, filled(out))
    assert not jobs.home.exists() and list(Path.cwd().iterdir()) == []


def test_settings_of_another_kind_are_refused(jobs: Jobs, settings: Callable[..., TrainConfig]) -> None:
    with pytest.raises(JobError, match="needs a FuseConfig, not a TrainConfig"):
        jobs.submit("fuse", settings(), "x.safetensors")


@pytest.mark.parametrize("number", ["", "0", "7", "-1", "1.0", "x", "٣", "1; drop table job", "9" * 30])
def test_unknown_numbers(jobs: Jobs, submit: Submit, number: str) -> None:
    submit("one")
    for ask in (jobs.get, jobs.stop, jobs.resume, jobs.cancel, jobs.log):
        with pytest.raises(JobError, match="no job .*`dreamtune jobs list` shows all"):
            ask(number)


@pytest.fixture
def held(jobs: Jobs) -> Iterator[Callable[[Job], None]]:
    """Hold the lock of a job as its process does."""
    taken: list[int] = []

    def hold(job: Job) -> None:
        lock = take(lock_path(jobs.home, int(job.id)))
        assert lock is not None
        taken.append(lock)

    yield hold
    for lock in taken:
        os.close(lock)


def test_state_of_a_process_that_lives(jobs: Jobs, submit: Submit, held: Callable[[Job], None]) -> None:
    job = submit("run")
    start(jobs, job)
    held(job)
    assert jobs.get(job.id).state == "running"
    for ask, message in (
        (jobs.cancel, "job 1 is running, no longer in the queue: stop it instead"),
        (jobs.resume, "job 1 is running, .*it is not over yet"),
    ):
        with pytest.raises(JobError, match=message):
            ask(job.id)
    with pytest.raises(JobError, match="job 1 is going to write"):
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
    assert lost.message and lost.message.startswith("its process ended without a word")
    with pytest.raises(JobError, match="it does not run: there is nothing to stop"):
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


def test_titles_are_one_short_line(jobs: Jobs, photos: Path) -> None:
    config = {"images": str(photos), "class_word": "dog"}
    assert jobs.submit("train", config, "a", title=" my\n dog\t").title == "my dog"
    assert len(jobs.submit("train", config, "b", title="x" * 1000).title) == 200


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("text", "file is not a database"),
        ("version", "made by a newer dreamtune"),
        ("folder", "cannot make the folder"),
    ],
)
def test_a_queue_that_cannot_be_used_says_so(jobs: Jobs, submit: Submit, damage: str, message: str) -> None:
    if damage == "folder":
        jobs.home.write_text("")
    else:
        submit("run")
        with sqlite3.connect(jobs.home / "queue.sqlite") as connection:
            connection.execute("pragma user_version = 99")
        connection.close()
        if damage == "text":
            (jobs.home / "queue.sqlite").write_text("no table")
    with pytest.raises(JobError, match=message):
        submit("other")


def test_many_at_once(home: Path, photos: Path) -> None:
    """From the first moment on, in which all of them find no queue."""

    def put(number: int) -> str:
        config = {"images": str(photos), "class_word": "dog"}
        return Jobs(home).submit("train", config, f"run{number}").id

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(put, range(24)))
    assert sorted(map(int, numbers)) == list(range(1, 25))
    assert {job.title for job in Jobs(home).list()} == {f"run{number}" for number in range(24)}


def test_lock(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "1.lock"
    assert not is_held(path)
    lock = take(path)
    assert lock is not None and is_held(path) and take(path) is None
    os.close(lock)
    assert not is_held(path)


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


def test_a_worker_without_work_ends_if_it_is_to(home: Path) -> None:
    thread = threading.Thread(target=worker.run_worker, args=(home,), kwargs={"idle": 0.1})
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_workers_below_one(home: Path) -> None:
    with pytest.raises(ConfigError, match="workers = 0: must be 1 or more"):
        worker.run_worker(home, workers=0)
    assert not home.exists()


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert jobs_home() == tmp_path / "home"
    monkeypatch.delenv("DREAMTUNE_JOBS")
    monkeypatch.setenv("DREAMTUNE_DATA", str(tmp_path / "data"))
    assert jobs_home() == tmp_path / "data" / "jobs"


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
    assert "its process ended without a word" in run("list")
    assert run_json("resume", "2")["position"] == 1
    assert run_json("log", "2", "--lines", "5") == {"id": "2", "log": ""}
    for arguments in (["stop", "2"], ["cancel", "9"], ["move", "2", "0"], ["log", "x"], ["resume", "1"]):
        assert main(["jobs", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("Error: ") and printed.err.count("\n") == 1
    assert main(["worker", "--workers", "0"]) == 2


def test_queue_option(photos: Path, trained: TrainResult, jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", str(photos), "--class", "dog", "--name", "rex", "--queue"]
    assert main(train) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 1 (rex) is queued at 1",
        "No worker is at work: start one with `dreamtune worker`.",
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
    for arguments in (train, ["train", "--resume", str(trained.run), "--queue"], ["analyze", *train[1:2], *train[-1:]]):
        assert main(arguments) == 2


def test_looking_at_the_queue_loads_nothing_heavy(submit: Submit) -> None:
    submit("one")
    code = (
        "import sys; from dreamtune.pipelines.jobs import Jobs; import dreamtune.pipelines.worker; "
        "assert len(Jobs().list()) == 1; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
