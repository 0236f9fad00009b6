"""Locks that tell whether a process lives: the kernel gives them up when it ends, in whatever way.

Other than process ids they are never those of somebody else, and other than filelock's they can be handed to a child:
a job's lock is held from before its process begins until after it has ended, without a gap.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take(path: Path) -> int | None:
    """Take the lock and return a file descriptor that holds it, as do those who inherit it; None if it is held.

    Raises OSError where the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_held(path: Path) -> bool:
    """Whether a living process holds it. Who looks shares the lock for a moment: a take() then has to be repeated."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
