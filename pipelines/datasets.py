"""Data sets imported into the app's folder: images, their captions and thumbnails."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from dreamtune.data.captions import Captions
from dreamtune.data.images import SUFFIXES, UnusablePicture, open_picture, quiet
from dreamtune.data.mask_files import MaskFiles, marked
from dreamtune.errors import ConfigError, DatasetError
from dreamtune.pipelines.output import complete
from dreamtune.pipelines.workspace import Workspace, tidy_name
from dreamtune.storage import atomic
from dreamtune.words import one_form

MOST_PICTURES = 200
MOST_BYTES = 64 << 20
"""Largest image."""
CAPTION = 2000
"""Most characters of an image's captions."""
_TEXTS = (".txt", ".caption")


def bring(workspace: Workspace, files: Sequence[tuple[str, Path]], name: str | None = None) -> str:
    """Copy images, and the captions next to them, into a new data set; return its name.

    files: (name, current path); name: of the new set. Raises DatasetError for a file that is neither, is too large or
    exceeds the limit, and then nothing is written; ConfigError for an invalid name.
    """
    if not files:
        raise DatasetError("no images given: drop at least one")
    if len(files) > MOST_PICTURES:
        raise DatasetError(f"{len(files)} files are too many for one subject: use at most {MOST_PICTURES}")
    for file, path in files:
        _check(file, path)
    stem = Path(files[0][0]).stem.rstrip("0123456789 -_.()")  # "dog-01.jpg" belongs to the dog
    folder = workspace.free_place(workspace.datasets, name or tidy_name(stem, "pictures"))
    with _complete(folder) as target:
        for own, (_, path) in zip(_own_names([file for file, _ in files]), files, strict=True):
            shutil.copyfile(path, target / own)
    return folder.name


def _own_names(files: Sequence[str]) -> list[str]:
    """Distinct plain names for files that keep an image, its captions and its mask together."""
    found: list[str] = []
    stems: dict[str, str] = {}
    for number, file in enumerate(files):
        path = Path(one_form(file))
        stem, mark = marked(path) or (path.stem, "")
        inner = Path(stem).suffix  # x.jpg.txt and x.jpg.mask.png are for x.jpg
        if (mark or path.suffix.lower() in _TEXTS) and inner.lower() in SUFFIXES:
            stem, mark = stem.removesuffix(inner), inner.lower() + mark
        if stem not in stems:
            own = tidy_name(stem, f"picture-{number}")
            stems[stem] = own if own not in stems.values() else f"{number}-{own}"
        name = f"{stems[stem]}{mark}{path.suffix.lower()}"
        found.append(name if name not in found else f"{number}-{name}")
    return found


def _check(file: str, path: Path) -> None:
    shown, suffix = Path(file).name[:80], Path(file).suffix.lower()
    if suffix not in SUFFIXES and suffix not in _TEXTS:
        raise DatasetError(f"{shown} is not an image: use JPEG, PNG, WebP, GIF or HEIC, with captions as .txt")
    size = path.stat().st_size
    if size > (MOST_BYTES if suffix in SUFFIXES else 64 << 10):
        raise DatasetError(f"{shown} is too large ({size >> 20} MiB): use images of at most {MOST_BYTES >> 20} MiB")


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    with complete(folder, DatasetError) as target:
        target.mkdir()
        yield target


def picture_files(folder: Path) -> list[Path]:
    """The files of a data set that may be images, in order of name, without masks and captions."""
    files = MaskFiles.find(sorted(path for path in folder.iterdir() if path.name[0] != ".")).files
    return [path for path in files if path.suffix.lower() in SUFFIXES][:MOST_PICTURES]


def read_captions(folder: Path) -> dict[str, str]:
    """Image -> its captions as training finds them, a line each; empty without any."""
    captions = Captions(path for path in folder.iterdir() if path.name[0] != ".")
    return {path.name: "\n".join(captions.of(path)) for path in picture_files(folder)}


def write_captions(workspace: Workspace, name: str, captions: Mapping[str, str]) -> int:
    """Write the captions of one of the app's data sets, one per line; return how many images have one.

    Empty captions are deleted. Raises ConfigError for a set in the owner's own folders, which are never written to, for
    an image that does not exist, and for a caption that is too long.
    """
    folder = workspace.dataset(name)
    if folder.parent != workspace.datasets:
        raise ConfigError(f"{name} is one of your own folders, which the app never changes: drop its images here first")
    known = {path.name: path for path in picture_files(folder)}
    for file, text in captions.items():
        if file not in known:
            raise ConfigError(f"no image {file[:80]!r} in {name}: caption only images of this data set")
        if len(text) > CAPTION:
            raise ConfigError(f"the caption of {file} is too long: use at most {CAPTION} characters")
    for file, text in captions.items():
        place, lines = known[file].with_suffix(".txt"), [" ".join(line.split()) for line in text.splitlines()]
        kept = [line for line in lines if line]
        if kept:
            with atomic(place) as temporary:
                temporary.write_text("\n".join(kept) + "\n", encoding="utf-8")
        for suffix in _TEXTS[1:] if kept else _TEXTS:  # where the first is, the others are not read
            place.with_suffix(suffix).unlink(missing_ok=True)
    return sum(bool(text) for text in read_captions(folder).values())


def small_view(path: Path, side: int = 256) -> bytes | None:
    """The image as WebP of at most `side` pixels; None if it cannot be decoded."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _small_view(path, side, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _small_view(path: Path, side: int, changed: int, size: int) -> bytes | None:
    try:
        with quiet():
            picture = open_picture(path, side).image
    except (UnusablePicture, OSError):
        return None
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
