"""The state of a job, derived from the table, the lock of its process and the folder it writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

from dreamtune.pipelines.jobs.job import UNFINISHED, Job, JobKind, JobState
from dreamtune.pipelines.jobs.lock import is_held
from dreamtune.pipelines.jobs.store import JobStore, Row
from dreamtune.pipelines.run_folder import RunFolder

WORKER_LOCK = "worker.lock"
"""The file in the queue's folder whose lock is held as long as a worker is at work."""
STOPPED = "stopped immediately"
"""Message of a job that was told to stop twice."""
LOST = "its process ended without a message: it was killed, or the machine went down"
_TAIL = 8192
"""Bytes at the end of metrics.jsonl that contain a complete line."""


def lock_path(home: Path, number: int) -> Path:
    """The file whose lock is held as long as the job's process lives."""
    return home / "locks" / f"{number}.lock"


def log_path(home: Path, number: int) -> Path:
    """What the job's processes have printed."""
    return home / "logs" / f"{number}.log"


def observe(store: JobStore, row: Row) -> Job:
    """The job as it stands, from a row of the table read just now. Writes nothing."""
    state, row = _state(store, row)
    done = row.done
    if row.kind == "train" and row.phase == "train" and row.state != "done":  # of which the run folder knows more
        done = last_step(RunFolder(row.out)) or done
    message = row.message
    if state == "interrupted" and row.state == "started":
        message = STOPPED if row.stop > 1 else LOST
    elif state == "done" and row.state != "done":
        message = None
    return Job(
        id=str(row.id),
        kind=cast(JobKind, row.kind),
        title=row.title,
        state=state,
        out=Path(row.out),
        created=row.created,
        started=row.started,
        finished=None if state in UNFINISHED else row.finished,
        done=done,
        total=row.total,
        phase=row.phase,
        eta=row.eta if state in ("running", "stopping") else None,
        message=message,
        resumable=state in ("interrupted", "failed"),
        position=None,
    )


def _state(store: JobStore, row: Row) -> tuple[JobState, Row]:
    while row.state == "started":
        if is_held(lock_path(store.home, row.id)):
            return ("stopping" if row.stop else "running"), row
        again = store.get(row.id)  # a job says how it ended before it gives up the lock
        if again is None or again == row:
            return ("done" if _is_written(row) else "interrupted"), row
        row = again
    if row.state == "interrupted" and row.kind == "train" and _is_written(row):
        return "done", row  # it was resumed by the command line
    return cast(JobState, row.state), row


def _is_written(row: Row) -> bool:
    """Whether the result exists: it is written last and atomically, and was not there before the job."""
    out = Path(row.out)
    if row.kind == "train":
        return RunFolder(out).report.is_file()
    return any(out.iterdir()) if out.is_dir() else out.exists()


def last_step(folder: RunFolder) -> int | None:
    """The last step in metrics.jsonl, None without any. Reads the end of the file alone, however long it is."""
    try:
        with open(folder.metrics, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill, or by the tail
    return None
