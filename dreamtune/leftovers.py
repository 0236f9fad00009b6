"""Temporary files and folders whose names record their process, so that those of killed processes can be removed."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_MADE = r"(?P<pid>\d{1,10})-(?P<began>\d{1,12})-(?P<machine>[0-9a-f]{8})-[0-9a-f]{8}"
_SAME = 5.0
"""Seconds that two readings of when a process began may differ: the clock is set now and then."""
_ELSEWHERE = 2 * 86400.0
"""Seconds after which what another machine has begun, or another container, counts as left behind."""


def fresh_name() -> str:
    """A unique name, made of the process, its start time, the machine, and random characters."""
    return f"{os.getpid()}-{psutil.Process().create_time():.0f}-{_machine()}-{secrets.token_hex(4)}"


def sweep_dead(folder: Path, before: str) -> None:
    """Remove what stands in `folder` under `before` and a :func:`fresh_name` whose process is over; only one's own."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            made = re.match(re.escape(before) + _MADE, entry.name)
            with suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
                if made and mine and _is_over(made, about.st_mtime):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new temporary folder, removed at the end of the block, or by the next call if the process is killed."""
    place, before = Path(tempfile.gettempdir()), "dreamtune-"
    sweep_dead(place, before)
    folder = place / f"{before}{fresh_name()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_over(made: re.Match[str], changed: float) -> bool:
    if made["machine"] != _machine():
        return time.time() - changed > _ELSEWHERE
    try:
        return abs(psutil.Process(int(made["pid"])).create_time() - float(made["began"])) > _SAME
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
