"""The queue of jobs as it is used: what it takes and refuses, and its order."""

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import DreamtuneError, JobError
from dreamtune.pipelines.jobs.queue import Jobs, jobs_home
from dreamtune.pipelines.jobs.store import JobStore
from dreamtune.pipelines.train.run import TrainResult
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import Submit

pytestmark = pytest.mark.usefixtures("home")


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
    with pytest.raises(JobError, match="job 1 is cancelled, no longer in the queue: it cannot be moved"):
        jobs.move(first.id, 1)
    with pytest.raises(JobError, match="job 1 is cancelled.*submit it again"):
        jobs.resume(first.id)
    again = submit("one")
    assert int(again.id) > int(second.id), "numbers are never given twice"


def test_one_place_is_for_one_job(jobs: Jobs, submit: Submit) -> None:
    submit("one")
    for same in ("one", "../here/./one", str(Path.cwd() / "one")):
        with pytest.raises(
            JobError, match=r"job 1 already writes to .*one: choose another output path, or cancel that job"
        ):
            submit(same)
    jobs.cancel("1")
    assert submit("one").state == "queued"


@pytest.mark.parametrize(
    ("kind", "config", "out", "error"),
    [
        ("train", {}, "run", "images is missing"),
        ("train", {"class_word": "dog", "images": "none"}, "run", "no image folder at none"),
        ("train", {"class_word": "dog", "images": "{photos}", "step": 3}, "run", "did you mean 'steps'"),
        ("train", {"class_word": "dog", "images": "{photos}", "method": "lorra"}, "run", "did you mean 'lora'"),
        ("train", {"class_word": "dog", "images": "{photos}"}, "{photos}/0.png/x", "is a file, not a folder"),
        ("train", {"class_word": "dog", "images": "{photos}"}, "{trained}", "already exists"),
        ("train", {"class_word": "dog", "images": "{photos}"}, "a\0b", "is not a valid path"),
        ("fuse", {"adapters": ["none.safetensors"]}, "x.safetensors", "no adapter file none.safetensors"),
        ("fuse", {"adapters": []}, "x.safetensors", "adapters"),
        ("fuse", {"adapters": ["{adapter}"]}, "x", "ends in .safetensors"),
        ("fuse", {"adapters": ["{adapter}"]}, "{adapter}", "already exists"),
        ("fuse", {"adapters": ["{adapter}"], "method": "tie"}, "x.safetensors", "'tie' must be one of sum"),
        ("analyze", {"adapters": ["{adapter}"], "layers": "nowhere"}, "x", "none of the"),
        ("analyze", {"adapters": ["{adapter}"]}, "{trained}", "is not empty"),
        ("evaluate", {"adapter": "{adapter}", "images": "none"}, "x", "no image folder at none"),
        (
            "evaluate",
            {"adapter": "{adapter}", "images": "{photos}", "prompts": "no.txt"},
            "x",
            "cannot read the prompts",
        ),
        ("generate", {"prompts": ["a dog"]}, "x", "unknown job kind 'generate': use one of train, fuse"),
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


@pytest.mark.parametrize(
    ("images", "out", "title"), [("{photos}", "a\udcff", None), ("a\udcff", "a", None), ("{photos}", "a", "\udcff")]
)
def test_names_that_no_table_can_keep_are_refused(
    jobs: Jobs, photos: Path, images: str, out: str, title: str | None
) -> None:
    """Python writes bytes of a file name that are not UTF-8 in this way."""
    if images == "a\udcff":
        shutil.copytree(photos, images)
    config = {"images": images.format(photos=photos), "class_word": "dog"}
    with pytest.raises(JobError, match="a name that is not valid Unicode: rename"):
        jobs.submit("train", config, out, title)
    assert not jobs.home.exists()


def test_settings_of_another_kind_are_refused(jobs: Jobs, settings: Callable[..., TrainConfig]) -> None:
    with pytest.raises(JobError, match="needs a FuseConfig, not a TrainConfig"):
        jobs.submit("fuse", settings(), "x.safetensors")


@pytest.mark.parametrize("number", ["", "0", "7", "-1", "1.0", "x", "٣", "1; drop table job", "9" * 30])
def test_unknown_numbers(jobs: Jobs, submit: Submit, number: str) -> None:
    submit("one")
    for ask in (jobs.get, jobs.stop, jobs.resume, jobs.cancel, jobs.log):
        with pytest.raises(JobError, match="no job .*run `dreamtune jobs list` to see all jobs"):
            ask(number)


def test_titles_are_one_short_line(jobs: Jobs, photos: Path) -> None:
    config = {"images": str(photos), "class_word": "dog"}
    assert jobs.submit("train", config, "a", title=" my\n dog\t").title == "my dog"
    assert len(jobs.submit("train", config, "b", title="x" * 1000).title) == 200


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("text", "file is not a database"),
        ("version", "made by a newer dreamtune"),
        ("folder", "cannot use the jobs folder"),
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


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert jobs_home() == tmp_path / "home"
    monkeypatch.delenv("DREAMTUNE_JOBS")
    monkeypatch.setenv("DREAMTUNE_DATA", str(tmp_path / "data"))
    assert jobs_home() == tmp_path / "data" / "jobs"


def test_the_queue_is_for_its_owner_alone(jobs: Jobs, submit: Submit) -> None:
    """Also one that an earlier release made, which followed the umask."""
    before = os.umask(0o022)
    try:
        submit("one")
        queue = jobs.home / "queue.sqlite"
        assert {file.stat().st_mode & 0o777 for file in jobs.home.glob("queue.sqlite*")} == {0o600}
        queue.chmod(0o644)
        submit("two")
        assert queue.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_where_no_lock_can_be_inherited_there_is_no_queue(
    jobs: Jobs, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: the list is there, and who submits is told."""
    submit("one")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert [job.state for job in jobs.list()] == ["queued"]
    with pytest.raises(JobError, match="the job queue needs file locks"):
        submit("two")
