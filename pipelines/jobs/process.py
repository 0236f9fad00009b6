"""The process of one job: `python -m dreamtune.pipelines.jobs.process HOME NUMBER LOCK`, which a worker starts.

It runs on its own: it writes its progress and result to the table, and reads there whether it has to stop.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dreamtune.errors import DreamtuneError, Interrupted, JobError, first_line
from dreamtune.pipelines import console
from dreamtune.pipelines.jobs.job import JobState
from dreamtune.pipelines.jobs.kinds import kind_of, read_config
from dreamtune.pipelines.jobs.store import JobStore, Row
from dreamtune.pipelines.progress import OnProgress, Printer, Progress

BEAT = 0.5
"""Seconds between two accesses to the table, in a thread of their own, so that no step waits for the disk."""


class Heartbeat:
    """Writes the job's progress to the table and passes on a request to stop; use as a context manager."""

    def __init__(self, store: JobStore, number: int) -> None:
        self.store, self.number = store, number
        self.stop = threading.Event()
        """Set when the job is asked to stop."""
        self._news: Mapping[str, Any] = {}
        self._told = self._news
        self._phase, self._first, self._began = "", 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, progress: Progress) -> None:
        """Take note of what the job does."""
        if not progress.total:
            self._news = {**self._news, "message": progress.message}
            return
        now, done, total = time.monotonic(), progress.done, progress.total
        if progress.phase != self._phase:
            self._phase, self._first, self._began = progress.phase, done, now
        left = progress.seconds_left
        if left is None and done > self._first:
            left = (now - self._began) / (done - self._first) * (total - done)
        self._news = {**self._news, "phase": progress.phase, "done": done, "total": total, "eta": left}

    def _run(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._over.wait(BEAT)
            try:
                self._beat()
            except JobError as error:  # a disk that is full for a while, say: the job itself goes on
                console.say(str(error), file=sys.stderr)

    def _beat(self) -> None:
        if self._news is not self._told:
            news = self._news
            self.store.update(self.number, **news)
            self._told = news
        row = self.store.get(self.number)
        asked = row.stop if row else 0
        if asked:
            self.stop.set()


def run_job(home: Path, number: int) -> int:
    """Run a job that is marked as started in the table, and return the exit code that the CLI would have."""
    store = JobStore(home)
    row = store.get(number)
    assert row is not None and row.state == "started", "the worker has claimed it"
    with console.hushed(), Heartbeat(store, number) as beat, Printer(sys.stderr) as printer:

        def on_progress(progress: Progress) -> None:
            printer(progress)
            beat(progress)

        printer(Progress(f"job {number}", message=f"started at {time.strftime('%Y-%m-%d %H:%M:%S')}"))
        state, message, code = _outcome(row, on_progress, beat.stop)
    store.update(number, "state = 'started'", state=state, finished=time.time(), eta=None, message=message)
    return code


def _outcome(row: Row, on_progress: OnProgress, stop: threading.Event) -> tuple[JobState, str | None, int]:
    try:
        try:
            os.chdir(row.cwd)  # relative paths of the settings count from there
        except OSError as error:
            raise JobError(f"cannot open {row.cwd}, the folder the job was submitted from: {error.strerror}") from None
        kind = kind_of(row.kind)
        kind.run(read_config(kind, json.loads(row.config)), Path(row.out), on_progress, stop)
    except Interrupted as error:
        return "interrupted", str(error), console.print_error(error, debug=False)
    except KeyboardInterrupt:
        return "interrupted", "stopped immediately", 130
    except DreamtuneError as error:
        return "failed", str(error), console.print_error(error, debug=False)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {first_line(error)}", console.print_error(error, debug=True)
    return "done", None, 0


def main() -> int:
    """Run the job that the arguments name."""
    console.share_cores()
    home, number, lock = sys.argv[1:]
    os.set_inheritable(int(lock), False)  # what this process starts must not seem to be this process
    try:
        return run_job(Path(home), int(number))
    except DreamtuneError as error:
        return console.print_error(error, debug=False)


if __name__ == "__main__":
    sys.exit(main())
