"""The worker: starts the jobs of a queue one after another, each in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from dreamtune.errors import ConfigError, JobError
from dreamtune.pipelines.jobs.lock import is_held, kill_group, kill_holder, sign, take
from dreamtune.pipelines.jobs.queue import jobs_home
from dreamtune.pipelines.jobs.state import LOST, STOPPED, WORKER_LOCK, lock_path, log_path, observe
from dreamtune.pipelines.jobs.store import JobStore, Row
from dreamtune.pipelines.progress import OnProgress, Printer, Progress

LOG = "worker.log"
STOP = "worker.stop"
"""A file that asks the worker to end. Not a signal: the id of its process might by now be that of another."""
POLL = 0.3
"""Seconds between two looks at the table, and at the jobs that run."""
IDLE = 300
"""Seconds without a job after which the worker of a user interface ends: nobody else would end it."""


def run_worker(
    home: Path | None = None,
    workers: int = 1,
    stop_event: threading.Event | None = None,
    on_progress: OnProgress | None = None,
    idle: float | None = None,
) -> None:
    """Run jobs of the queue in `home` until `stop_event` is set, at most `workers` at a time.

    With `idle` it also ends after that many seconds without a job. Jobs whose processes outlived an earlier worker
    count too. At the end it asks running jobs to stop and waits until they have; they can be resumed. Raises JobError
    if another worker is running or the queue cannot be used, ConfigError for `workers` below 1.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers} must be at least 1")
    home = (home or jobs_home()).absolute()
    store = JobStore(home)
    with store.writing():
        pass  # so that what is wrong with the queue is told before there is a worker
    if not is_held(home / WORKER_LOCK):
        (home / STOP).unlink(missing_ok=True)  # for an earlier one; from when the lock is held on it is for this one
    lock = _take_patiently(home / WORKER_LOCK)
    if lock is None:
        raise JobError(
            f"another worker is already running in {home}: one is enough; --workers sets how many jobs it runs at once"
        )
    try:
        with Printer() as printer:
            _Worker(store, workers, on_progress or printer).run(stop_event or threading.Event(), idle)
    finally:
        os.close(lock)


def _take_patiently(path: Path) -> int | None:
    for _ in range(10):  # somebody may be looking at it
        if (lock := take(path)) is not None:
            return lock
        time.sleep(0.05)
    return None


def launch(home: Path, number: int, lock: int) -> subprocess.Popen[bytes]:
    """Start the process of a job, which from then on holds `lock` and survives this one. Raises OSError."""
    log = log_path(home, number)
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = (str(home), str(number), str(lock))
    with open(log, "ab") as file:
        return subprocess.Popen(
            # -P: a file of the user's that is called like a library must not be taken for it
            [sys.executable, "-P", "-m", "dreamtune.pipelines.jobs.process", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for the worker, which then asks its jobs to stop
        )


class _Worker:
    """The state of a worker besides the table: the processes that it has started itself."""

    def __init__(self, store: JobStore, workers: int, on_progress: OnProgress) -> None:
        self.store, self.workers, self.on_progress = store, workers, on_progress
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def run(self, stop: threading.Event, idle: float | None) -> None:
        busy = time.monotonic()
        while True:
            running = self._running()
            if stop.is_set() or (self.store.home / STOP).exists():
                if not running:
                    return
                for row in running:
                    self.store.update(row.id, "state = 'started' and stop = 0", stop=1)
                time.sleep(POLL)
                continue
            if len(running) < self.workers and self._start_next():
                continue
            if running:
                busy = time.monotonic()
            elif idle is not None and time.monotonic() - busy > idle:
                return
            stop.wait(POLL)

    def _running(self) -> list[Row]:
        """Rows of the jobs whose process is alive; ended ones are reported, and recorded if they did not do so.

        A job that was asked to stop a second time is killed.
        """
        rows = self.store.rows("state = 'started'")
        alive = []
        for row in rows:
            job = observe(self.store, row)
            if job.state in ("running", "stopping"):
                alive.append(row)
                if row.stop > 1:
                    self._kill(row.id)
            elif job.state == "done":
                self._settle(row, state="done", finished=time.time(), eta=None, message=None)
            elif job.state == "interrupted":
                self._settle(row, state="interrupted", finished=time.time(), eta=None, message=self._reason(row))
        for number in self._children.keys() - {row.id for row in alive}:
            self._children.pop(number).wait()
            row = self.store.get(number)
            self._say(number, f"{row.state}{f': {row.message}' if row.message else ''}" if row else "gone")
        return alive

    def _kill(self, number: int) -> None:
        if child := self._children.get(number):
            kill_group(child.pid)
        else:  # of an earlier worker
            kill_holder(lock_path(self.store.home, number))

    def _settle(self, row: Row, **values: object) -> None:
        self.store.update(row.id, f"state = 'started' and attempt = {row.attempt}", **values)

    def _reason(self, row: Row) -> str:
        """Why a process has ended that did not report it."""
        code = self._children[row.id].wait() if row.id in self._children else None
        if row.stop > 1:
            return STOPPED
        if code == -signal.SIGKILL:
            return "its process was killed, by a user or because memory ran out"
        return LOST if code is None or code < 0 else f"its process exited with code {code}: see its log"

    def _start_next(self) -> bool:
        """Start the first job of the queue, if there is one."""
        row = next(iter(self.store.rows("state = 'queued'")), None)
        if row is None:
            return False
        lock = None
        try:
            lock = take(lock_path(self.store.home, row.id))
            if lock is None:  # somebody is looking at it: another time
                return False
            begun = {"state": "started", "attempt": row.attempt + 1, "started": time.time(), "stop": 0}
            if self.store.update(row.id, "state = 'queued'", **begun):
                self._children[row.id] = child = launch(self.store.home, row.id, lock)
                sign(lock, child.pid)
                self._say(row.id, f"{row.kind} {row.title}")
        except OSError as error:
            message = f"its process could not start: {error.strerror or error}"
            self.store.update(
                row.id, "state in ('queued', 'started')", state="failed", finished=time.time(), message=message
            )
        finally:
            if lock is not None:
                os.close(lock)
        return True

    def _say(self, number: int, message: str) -> None:
        self.on_progress(Progress(f"job {number}", message=message))


_started: dict[Path, subprocess.Popen[bytes]] = {}
"""Home -> worker that this process has started. They are kept, since Popen warns of a process that outlives it."""


class WorkerProcess:
    """A worker in its own process, for a user interface that needs one."""

    def __init__(self, home: Path | None = None, workers: int = 1) -> None:
        self.home, self.workers = (home or jobs_home()).absolute(), workers
        self._mutex = threading.Lock()

    def alive(self) -> bool:
        """Whether a worker is running in `home`, whoever started it. Cheap enough to call at any time."""
        return is_held(self.home / WORKER_LOCK)

    def ensure(self) -> None:
        """Start a worker unless one is running. Raises JobError if it does not start.

        It outlives this process, and ends after :data:`IDLE` seconds without a job: call this again whenever there is
        work, e.g. every few seconds.
        """
        with self._mutex:
            if not self.alive():
                self._start()

    def _start(self, patience: float = 60.0) -> None:
        options = ("--workers", str(self.workers), "--idle", str(IDLE))
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self.home / LOG, "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "dreamtune.pipelines.cli", "worker", *options],
                    env=os.environ | {"DREAMTUNE_JOBS": str(self.home)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise JobError(f"cannot start a worker in {self.home}: {error.strerror or error}") from None
        if earlier := _started.pop(self.home, None):
            earlier.wait()  # it has given up its lock: it is over
        _started[self.home] = process
        end = time.monotonic() + patience
        while not self.alive():
            if process.poll() is not None or time.monotonic() > end:
                lines = (self.home / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise JobError(f"the worker did not start: {lines[-1] if lines else 'its log is empty'}")
            time.sleep(0.05)

    def stop(self, timeout: float = 60.0) -> bool:
        """Ask the worker to end; running jobs stop with a checkpoint. Return whether it has ended within `timeout`.

        Raises JobError if the home is not writable.
        """
        end = time.monotonic() + timeout
        try:
            if self.alive():
                (self.home / STOP).touch()
        except OSError as error:
            raise JobError(
                f"cannot write to {self.home}: {error.strerror}; free some disk space, or stop the worker with Ctrl-C"
            ) from None
        while self.alive() and time.monotonic() < end:
            time.sleep(0.05)
        if self.alive():
            return False
        if process := _started.pop(self.home, None):
            process.wait()
        return True
