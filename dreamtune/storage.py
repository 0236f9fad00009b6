"""Where files are kept, and writing them completely or not at all. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from dreamtune.errors import ConfigError


def cache_dir() -> Path:
    """The cache's folder: $DREAMTUNE_CACHE, else ~/.cache/dreamtune. It need not exist yet. Raises ConfigError."""
    return _own_folder("DREAMTUNE_CACHE", ".cache")


def data_dir() -> Path:
    """The folder of data that must not be lost: $DREAMTUNE_DATA, else ~/.local/share/dreamtune. It need not exist yet.

    Raises ConfigError where there is no home.
    """
    return _own_folder("DREAMTUNE_DATA", ".local/share")


def _own_folder(variable: str, place: str) -> Path:
    try:
        return Path(os.environ.get(variable) or Path.home() / place / "dreamtune").expanduser()
    except RuntimeError:  # as in a container whose user has no entry
        raise ConfigError(f"there is no home folder: set HOME, or set {variable} to a writable folder") from None


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open an existing file to read its bytes, at once and only if it has an end: not a pipe, a device or a socket.

    Raises OSError as open() does, also for those, with a `strerror` that can be quoted to a person.
    """
    # A pipe that nobody writes to would hold up an open() without O_NONBLOCK for ever; Windows has neither.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _refuse_irregular(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise the OSError that :func:`open_regular` would, for a file that a library is going to open by its name."""
    _refuse_irregular(os.stat(path).st_mode, path)


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """All bytes of a file of at most `limit` bytes. Raises OSError as :func:`open_regular` does, or if it has more."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(
            errno.EFBIG, f"larger than {limit >> 20} MiB" if limit >> 20 else f"over {limit} bytes", str(path)
        )
    return content


def _refuse_irregular(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


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
