"""Locks that show whether a process is alive: the kernel releases them when it ends, however it ends.

Unlike process ids they never belong to somebody else, and unlike filelock's they can be handed to a child: a job's lock
is held from before its process starts until after it has ended, without a gap. Windows has no such locks: there is no
queue there, but everything else works.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from types import ModuleType

import psutil

from dreamtune.errors import JobError

_SAME = 5.0
"""Seconds by which two readings of a process's start time may differ: the clock is adjusted now and then."""


def check_system() -> None:
    """Raise JobError where there is no lock that a child can inherit, and so no queue."""
    _fcntl()


def take(path: Path) -> int | None:
    """Take the lock and return a file descriptor that holds it, as do those who inherit it; None if it is held.

    Raises OSError where the file cannot be made, JobError as :func:`check_system` does.
    """
    fcntl = _fcntl()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_held(path: Path) -> bool:
    """Whether a living process holds it. Who looks shares the lock for a moment: a take() then has to be repeated.

    Raises JobError as :func:`check_system` does, if there is a file.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl = _fcntl()
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def sign(handle: int, pid: int) -> None:
    """Write into the lock's file that the child `pid` of this process has inherited it, for :func:`kill_holder`."""
    with contextlib.suppress(OSError, psutil.Error):  # on a full disk its parent alone can kill it
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{pid} {psutil.Process(pid).create_time()}".encode(), 0)


def kill_holder(path: Path) -> None:
    """Kill the process that holds the lock and was signed into it, with all that it has started.

    Does nothing if the lock is free, or the one who signed lives in another container.
    """
    try:
        pid, began = path.read_text(encoding="ascii").split()
        same = abs(psutil.Process(int(pid)).create_time() - float(began)) < _SAME
    except (OSError, ValueError, psutil.Error):  # not signed yet, or over
        return
    if same and is_held(path):  # held still: its id is not that of another by now
        kill_group(int(pid))


def kill_group(leader: int) -> None:
    """Kill a job and all that it has started, from outside: within a long call into C it could not end itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _fcntl() -> ModuleType:
    try:
        import fcntl
    except ImportError:
        raise JobError(
            "the job queue needs file locks that a child process inherits, which this system lacks: run the command "
            "without --queue, or use dreamtune in WSL"
        ) from None
    return fcntl
