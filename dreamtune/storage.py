"""Where things are kept, and writing them whole or not at all. Needs nothing heavy."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def cache_dir() -> Path:
    """The cache's folder: $DREAMTUNE_CACHE, else ~/.cache/dreamtune. It need not exist yet."""
    return Path(os.environ.get("DREAMTUNE_CACHE") or Path.home() / ".cache" / "dreamtune").expanduser()


def data_dir() -> Path:
    """Where lies what must not be lost: $DREAMTUNE_DATA, else ~/.local/share/dreamtune. It need not exist yet."""
    return Path(os.environ.get("DREAMTUNE_DATA") or Path.home() / ".local" / "share" / "dreamtune").expanduser()


@contextlib.contextmanager
def atomic(path: Path, replace: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; when the block succeeds, flush it and rename it to `path`.

    Without `replace` raises FileExistsError if there is a file by then, also one that another process has just made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not made by tempfile: its mode 0600 would outlive the rename and keep the file from other users.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if not replace:
            claim(temporary, path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def claim(temporary: Path, path: Path) -> None:
    """Make the file `path`, at best with the contents of `temporary`. Raises FileExistsError if it is there."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))


def sweep(folder: Path) -> None:
    """Remove temporary files and folders that a kill left in `folder`. Only for the one process that writes there."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
