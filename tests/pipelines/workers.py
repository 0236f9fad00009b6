"""Real workers and jobs that start in a moment: forked from a process that has imported everything.

Run as a program it is that process. It reads a home and a number of workers a line from stdin, forks a `dreamtune
worker` there, whose jobs are forks of it too, and answers with its process id.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamtune.pipelines.jobs import process as job_process
from dreamtune.pipelines.jobs import worker
from dreamtune.pipelines.jobs.lock import is_held
from dreamtune.pipelines.jobs.state import WORKER_LOCK, lock_path, log_path
from tests.pipelines.fork_server import ForkServer, import_all

SLOW = 0.03
"""Seconds that a step of their trainings takes longer."""


class Workers(ForkServer):
    """Starts workers."""

    def __init__(self) -> None:
        super().__init__("tests.pipelines.workers")

    def start(self, home: Path, workers: int = 1) -> int:
        """Start a worker and wait until it is at work; returns its process id."""
        self.ask(json.dumps([str(home), workers]))
        pid = int(self.answer())
        until(lambda: is_held(home / WORKER_LOCK))
        return pid


def until(condition: Callable[[], Any], seconds: float = 240) -> None:
    """Look often whether `condition` holds, and fail when it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def kill_worker(home: Path, pid: int) -> None:
    """Kill -9 the worker at work in `home`."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_held(home / WORKER_LOCK))


def kill_job(home: Path, number: str) -> None:
    """Kill -9 the process of a job, which writes its id into the log here."""
    ids = [line for line in log_path(home, int(number)).read_text().splitlines() if line.startswith("pid ")]
    os.kill(int(ids[-1].split()[1]), signal.SIGKILL)
    until(lambda: not is_held(lock_path(home, int(number))))


class _Fork:
    """What the worker needs of a child."""

    def __init__(self, pid: int) -> None:
        self.pid, self._pid, self._code = pid, pid, 0

    def wait(self) -> int:
        if self._pid:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self._pid = 0
        return self._code


def _launch(home: Path, number: int, lock: int) -> _Fork:
    """As the worker's own, with a fork for a new interpreter."""
    log = log_path(home, number)
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return _Fork(pid)
    code = 1
    try:
        os.setsid()
        _only(log, os.O_APPEND, lock)
        print(f"pid {os.getpid()}", flush=True)
        for number_of_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number_of_signal, signal.SIG_DFL)
        code = job_process.run_job(home, number)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _only(log: Path, flags: int, *kept: int) -> None:
    """Write to `log`, and close everything else but `kept`: locks of others among it."""
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | flags)
    for number, target in ((0, null), (1, file), (2, file)):
        os.dup2(target, number)
    for number in set(range(3, 256)) - set(kept):
        try:
            os.close(number)
        except OSError:
            continue


def _slow_down(trainer: Any, seconds: float) -> None:
    """Let each step take longer, so that a training can be met in the middle on any machine."""
    step = trainer.step

    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return step(*arguments)

    trainer.step = slow


def _serve() -> None:
    import_all()
    import dreamtune.analysis
    import dreamtune.evaluation  # noqa: F401
    from dreamtune.pipelines.cli.app import main
    from dreamtune.training.trainer import Trainer

    worker.launch = _launch  # pyright: ignore[reportAttributeAccessIssue]
    worker.POLL, job_process.BEAT = 0.05, 0.05
    _slow_down(Trainer, SLOW)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the workers
    answers = os.dup(1)
    for line in sys.stdin:
        home, workers = json.loads(line)
        pid = os.fork()
        if pid:
            os.write(answers, f"{pid}\n".encode())
            continue
        os.setsid()
        _only(Path(home) / worker.LOG, os.O_TRUNC)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["DREAMTUNE_JOBS"] = home
        code = main(["worker", "--workers", str(workers)])
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
