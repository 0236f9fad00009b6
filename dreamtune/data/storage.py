"""Where things are kept, and writing them whole or not at all. Needs nothing heavy."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_dir() -> Path:
    """The cache's folder: $DREAMTUNE_CACHE, else ~/.cache/dreamtune. It need not exist yet."""
    return Path(os.environ.get("DREAMTUNE_CACHE") or Path.home() / ".cache" / "dreamtune").expanduser()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; when the block succeeds, flush it and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 would keep a shared cache from others
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    # The only portable way to read it is to set it; the gap is harmless because files here are made 0600 first.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
