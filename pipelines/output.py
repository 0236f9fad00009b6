"""Output that is complete or absent, and checks of output paths."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamtune.errors import ConfigError, DreamtuneError
from dreamtune.leftovers import fresh_name, sweep_dead
from dreamtune.storage import atomic, claim


def check_place(folder: Path, error: type[DreamtuneError] = ConfigError) -> None:
    """Raise `error` if `folder` is a file, or can be neither written to nor made. Writes nothing."""
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise error(f"{parent} is a file, not a folder: choose another output path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise error(f"cannot write to {parent}: choose another output path instead of {folder}")


def check_absent(place: Path) -> None:
    """Raise ConfigError if there is something, or if nothing can be written there. Writes nothing."""
    if place.exists() or place.is_symlink():
        raise ConfigError(f"{place} already exists: delete it or choose another name")
    check_place(place.parent)


def check_new_file(place: Path, suffix: str = ".safetensors") -> None:
    """Raise ConfigError unless a new file of this suffix can be written there. Writes nothing."""
    if place.suffix.lower() != suffix:
        raise ConfigError(f"the output {place} must be a file: use a name that ends in {suffix}")
    check_absent(place)


def check_new_folder(folder: Path) -> None:
    """Raise ConfigError unless a new folder for a report can be made there, or is there and empty. Writes nothing."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: choose a new folder for the report")
    check_place(folder)


@contextmanager
def complete(place: Path, error: type[DreamtuneError] = ConfigError) -> Iterator[Path]:
    """A temporary path next to `place`, for a file or a folder, which becomes `place` when the block succeeds.

    Raises `error` if it cannot be written; then nothing remains, not even the folders made for it. Also raises it if
    another process has created `place` by then, which stays. Leftovers of killed processes next to it are removed.
    """
    target = place.parent / f".{fresh_name()}.{place.name}"
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep_dead(place.parent, ".")
        yield target
        for path in [target, *target.rglob("*")]:
            if path.is_file():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
        if target.is_file():  # a folder replaces only an empty one
            claim(target, place)
        os.replace(target, place)
    except FileExistsError:
        raise error(f"{place} was written by another process in the meantime: choose another name") from None
    except OSError as fault:
        reason = fault.strerror or fault
        raise error(f"cannot write {place}: {reason}; free some disk space or choose another path") from None
    finally:
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        for folder in made:  # those of a failure, which are empty
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_png(path: Path, picture: Image.Image, texts: Mapping[str, str] | None = None, replace: bool = True) -> None:
    """Write a PNG with `texts` as its text chunks. Raises OSError, without `replace` also for a file that is there."""
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_itxt(key, text)  # UTF-8; the older tEXt chunks are Latin-1
    with atomic(path, replace) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)


def human(size: int) -> str:
    """Bytes as "3.4 MiB"."""
    power = min(4, max(0, size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.{int(power > 0)}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
