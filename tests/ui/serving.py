"""`dreamtune ui` as a process of its own."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamtune.pipelines.jobs.lock import take
from dreamtune.pipelines.jobs.state import WORKER_LOCK
from dreamtune.pipelines.workspace import Workspace


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str
    workspace: Workspace
    log: Path


@contextlib.contextmanager
def served(home: Path, *options: str, worker: bool = False) -> Iterator[Served]:
    """Serve the app from `home`; without `worker` jobs wait for ever."""
    workspace = Workspace(home)
    workspace.jobs.mkdir(parents=True, exist_ok=True)
    lock = None if worker else take(workspace.jobs / WORKER_LOCK)
    log = home.parent / f"{home.name}.log"
    running = start(home, log, *options)
    try:
        yield Served(running, address(running, log), workspace, log)
    finally:
        running.terminate()
        running.wait(30)
        if lock is not None:
            os.close(lock)


def start(home: Path, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """Begin to serve."""
    command = [sys.executable, "-m", "dreamtune.pipelines.cli", "ui", "--port", "0", "--home", str(home), *options]
    with open(log, "wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def address(running: subprocess.Popen[bytes], log: Path, patience: float = 180) -> str:
    """Where it answers, once it does."""
    end = time.monotonic() + patience
    while time.monotonic() < end and running.poll() is None:
        if found := re.search(r"dreamtune is running at (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(log.read_text())
