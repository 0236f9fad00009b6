"""The job queue: queued, running and finished trainings, fusions, analyses and evaluations.

It outlives all processes: requests are stored in a table on disk, a worker (see :mod:`~.worker`) starts one job after
another, and each job runs in its own process, which continues whatever happens to the worker and the user interface.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamtune.config import Config
from dreamtune.errors import JobError
from dreamtune.pipelines.jobs.job import UNFINISHED, Job, JobKind, JobState
from dreamtune.pipelines.jobs.lock import check_system, is_held, kill_holder
from dreamtune.pipelines.jobs.state import WORKER_LOCK, lock_path, log_path, observe
from dreamtune.pipelines.jobs.store import Changes, JobStore, Row
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.storage import data_dir

__all__ = ["Job", "JobKind", "JobState", "Jobs", "jobs_home"]

_TITLE = 200
"""Characters of a title that are kept."""


def jobs_home() -> Path:
    """The queue's folder: $DREAMTUNE_JOBS, else jobs/ in the data folder. It need not exist yet."""
    return Path(os.environ.get("DREAMTUNE_JOBS") or data_dir() / "jobs").expanduser()


class Jobs:
    """The queue in the folder `home`, by default :func:`jobs_home`. Any thread or process may use it at any time."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or jobs_home()).absolute()
        self._store = JobStore(self.home)

    def submit(
        self, kind: JobKind, config: Config | Mapping[str, Any], out: str | Path, title: str | None = None
    ) -> Job:
        """Put a job at the end of the queue.

        config: the pipeline's settings (TrainConfig, FuseConfig, AnalyzeConfig or EvaluateConfig), or their values by
        name; paths in it, and `out`, are relative to the current folder. out: output path of the pipeline. title: for
        people; the name of `out` if not set.

        Runs the pipeline's checks that need no base, and raises the same errors; raises JobError if another job writes
        to `out`, or on a system without a queue. Nothing is written then. It makes no difference whether a worker is
        running.
        """
        from dreamtune.pipelines.jobs.kinds import kind_of, read_config

        check_system()
        if "\0" in str(out):
            raise JobError(f"{str(out)!r} is not a valid path: remove the null character")
        flow = kind_of(kind)
        settings, place = read_config(flow, config), Path(os.path.abspath(Path(out).expanduser()))
        flow.check(settings, place)
        try:
            texts = {
                "title": " ".join((title or place.name).split())[:_TITLE],
                "config": settings.model_dump_json(exclude_unset=True),  # presets fill in what was not set
                "out": str(place),
                "cwd": os.getcwd(),
            }
            for text in texts.values():
                text.encode()
        except ValueError:  # as file names may be
            raise JobError(
                "the queue cannot store a name that is not valid Unicode: rename the file or folder"
            ) from None
        with self._store.writing() as changes:
            self._check_free(changes, texts["out"])
            number = changes.add(kind=kind, created=time.time(), **texts)
        return self.get(str(number))

    def list(self) -> list[Job]:
        """All jobs: running ones, queued ones in their order, then the others, newest first."""
        rows = self._store.rows()
        places = _places(rows)
        known = [_placed(observe(self._store, row), places) for row in rows]
        running = [job for job in known if job.state in ("running", "stopping")]
        queued = [job for job in known if job.state == "queued"]
        ended = [job for job in known if job.state not in UNFINISHED]
        return running + queued + sorted(ended, key=lambda job: (job.started or job.created, int(job.id)), reverse=True)

    def get(self, id: str) -> Job:
        """One job. Raises JobError for an id that no job has."""
        row = self._row(id)
        places = _places(self._store.rows("state = 'queued'")) if row.state == "queued" else {}
        return _placed(observe(self._store, row), places)

    def stop(self, id: str) -> Job:
        """Ask a running job to stop: a training after its next step, with a checkpoint; others with nothing written.

        A job that is already stopping is killed by the worker within a second or two. Raises JobError for a job that is
        not running.
        """
        job = self.get(id)
        if job.state not in ("running", "stopping"):
            raise JobError(f"job {id} is {job.state}, not running: there is nothing to stop")
        self._store.update(int(id), "state = 'started'", stop=1 if job.state == "running" else 2)
        if job.state == "stopping" and not is_held(self.home / WORKER_LOCK):
            kill_holder(lock_path(self.home, int(id)))  # nobody else would
        return self.get(id)

    def resume(self, id: str) -> Job:
        """Put a failed or interrupted job at the end of the queue again.

        A training resumes from its newest checkpoint, and on the CPU ends bit for bit as if nothing had happened; other
        kinds start over. Raises JobError for a job that cannot be resumed, and if another job writes to its output path
        or a process is training there.
        """
        number = self._row(id).id
        with self._store.writing() as changes:  # within, so that nobody else resumes it, or gives its place away
            job = self.get(id)
            if not job.resumable:
                hint = {"done": "its result is complete", "cancelled": "submit it again"}.get(
                    job.state, "it has not ended yet"
                )
                raise JobError(f"job {id} is {job.state}, so there is nothing to resume: {hint}")
            self._check_free(changes, str(job.out), but=number)
            if job.kind == "train" and RunFolder(job.out).is_held():
                raise JobError(f"another process is training in {job.out}: wait for it or stop it")
            nothing = dict.fromkeys(("started", "finished", "eta", "message"))
            changes.update(number, state="queued", place=changes.last_place() + 1, stop=0, **nothing)
        return self.get(id)

    def cancel(self, id: str) -> Job:
        """Remove a job from the queue for good. Raises JobError for a job that has started."""
        if not self._store.update(self._row(id).id, "state = 'queued'", state="cancelled", finished=time.time()):
            job = self.get(id)
            hint = "stop it instead" if job.state in ("running", "stopping") else "there is nothing to cancel"
            raise JobError(f"job {id} is {job.state}, no longer in the queue: {hint}")
        return self.get(id)

    def move(self, id: str, to: int) -> Job:
        """Move a queued job to position `to`, where 1 runs next; larger than the queue means last.

        Raises JobError for a job that has started.
        """
        row = self._row(id)
        with self._store.writing() as changes:
            queued = [it.id for it in changes.rows("state = 'queued'")]
            if row.id not in queued:
                raise JobError(f"job {id} is {self.get(id).state}, no longer in the queue: it cannot be moved")
            if to < 1:
                raise JobError(f"position = {to} must be at least 1 (1 runs next)")
            queued.remove(row.id)
            queued.insert(to - 1, row.id)
            first = changes.last_place() + 1  # places only grow, so that none is given twice
            for place, number in enumerate(queued, first):
                changes.update(number, place=place)
        return self.get(id)

    def log(self, id: str, lines: int = 200) -> str:
        """The last `lines` lines of the job's output; empty before it started."""
        path = log_path(self.home, self._row(id).id)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return "".join(deque(file, lines))
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise JobError(f"cannot read {path}: {error.strerror}") from None

    def settings(self, id: str) -> dict[str, Any]:
        """The settings that the job was submitted with, without those left to presets."""
        return json.loads(self._row(id).config)

    def wait(self, id: str, timeout: float) -> Job:
        """Wait until the job has ended, at most `timeout` seconds; return its state then."""
        end = time.monotonic() + timeout
        while (job := self.get(id)).state in UNFINISHED and time.monotonic() < end:
            time.sleep(0.1)
        return job

    def _check_free(self, changes: Changes, place: str, but: int = 0) -> None:
        """Raise JobError if a job other than `but` is going to write to `place`."""
        for row in changes.rows("out = ? and id != ? and state in ('queued', 'started')", place, but):
            if observe(self._store, row).state in UNFINISHED:
                raise JobError(
                    f"job {row.id} already writes to {place}: choose another output path, or cancel that job"
                )

    def _row(self, id: str) -> Row:
        row = self._store.get(int(id)) if id.isascii() and id.isdecimal() and len(id) < 19 else None
        if row is None:
            raise JobError(f"no job {id!r}: run `dreamtune jobs list` to see all jobs")
        return row


def _places(rows: list[Row]) -> dict[str, int]:
    """Position of each queued job, of rows in the queue's order."""
    return {str(row.id): place for place, row in enumerate((row for row in rows if row.state == "queued"), 1)}


def _placed(job: Job, places: Mapping[str, int]) -> Job:
    return replace(job, position=places.get(job.id)) if job.state == "queued" else job
