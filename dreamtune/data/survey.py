"""Survey of a folder: which of its files are usable images, and what is wrong with the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dreamtune.data import masks
from dreamtune.data.buckets import Crop, Framing
from dreamtune.data.captions import Captions
from dreamtune.data.images import (
    SUFFIXES,
    Remark,
    UnusablePicture,
    open_picture,
    perceptual_hash,
    printable,
    quiet,
)
from dreamtune.data.mask_files import MaskFile, MaskFiles

NEAR = 4
"""Pictures whose perceptual hashes differ in at most this many of 64 bits look alike; others differ in 15 and more."""
THREADS = 4
"""Files that are looked at together, if there are as many cores."""
_GLANCE = 64
"""Shorter side in pixels at which a JPEG is decoded here: enough for the hash, and whole enough to find damage."""
_CLUTTER = ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture that can be used. Its pixels stay on disk until they are needed."""

    path: Path
    file: str
    """Name inside the folder, safe to print."""
    digest: str
    """SHA-256 of the file's bytes."""
    crop: Crop
    captions: tuple[str, ...]
    """What stands beside it; empty if nothing does."""
    mask: np.ndarray | None
    """(h, w) fp32 weight of each latent cell; None weighs all alike."""
    conversions: tuple[str, ...]
    """What was done to make it plain RGB, upright."""
    likeness: int
    """Perceptual hash."""
    mask_file: Path | None = None
    """The file that its mask was read from, which may show everything; None for its transparency, or no mask."""
    made_mask: np.ndarray | None = None
    """(h, w) bool of the whole picture, of any size, if the mask was made from where the base sees the subject."""


def survey(
    folder: Path,
    framing: Framing,
    token: str | None = None,
    use_masks: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Photo], list[Remark]]:
    """The usable pictures of a folder, and a remark on everything that was not used as it stood; in order of name.

    Every picture is decoded, and forgotten again. Exact copies are used once. `token` is looked for in captions if
    given. Without `use_masks` nothing is masked. `on_progress(done, of)` is told after each file.
    """
    entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    captions = Captions(entries, token)
    drawn = MaskFiles.find(path for path in entries if path.name not in _CLUTTER)
    files = [path for path in drawn.files if not captions.owns(path)]

    def look(path: Path) -> tuple[Photo | None, list[Remark]]:
        return _look(path, framing, drawn.of(path) if use_masks else None, use_masks, path in drawn.doubtful)

    photos: list[Photo] = []
    remarks: list[Remark] = []
    by_digest: dict[str, str] = {}
    with quiet(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        looks = pool.map(look, files)
        try:
            for done, (photo, told) in enumerate(looks, 1):
                if photo is not None and photo.digest in by_digest:
                    remarks.append(
                        Remark(photo.file, f"is a copy of {by_digest[photo.digest]}", "it is used only once")
                    )
                else:
                    remarks += told
                if photo is not None and photo.digest not in by_digest:
                    by_digest[photo.digest] = photo.file
                    remarks += _twin(photo, photos)
                    photos.append(replace(photo, captions=captions.of(photo.path)))
                if on_progress:
                    on_progress(done, len(files))
        finally:  # nobody waits for the rest when the user stops it
            pool.shutdown(wait=False, cancel_futures=True)
    used = {photo.path.name for photo in photos}
    unused = [path.name for path in files if path.name not in used]
    remarks += captions.finish(unused)
    remarks += drawn.finish(files, use_masks)
    return photos, sorted(remarks, key=lambda remark: remark.file)


def _look(
    path: Path, framing: Framing, mask: MaskFile | None, use_masks: bool, doubtful: bool
) -> tuple[Photo | None, list[Remark]]:
    """Decode a file and say what is wrong with it. The photo lacks its captions; None if it cannot be used.

    doubtful: whether it is called as a mask is, but there is no picture that it could belong to.
    """
    name, named_as_picture = printable(path.name), path.suffix.lower() in SUFFIXES
    try:
        if path.is_dir():
            return None, [Remark(name, "is a folder", "its images are not read: move them up")]
        if path.is_symlink() and not path.exists():  # for want of its goal, or in a circle
            return None, [Remark(name, "is a broken link", "remove it", skipped=named_as_picture)]
        if not path.is_file():  # a pipe, a socket: reading could wait for ever
            return None, [Remark(name, "is not a regular file", "remove it", skipped=named_as_picture)]
    except OSError as error:
        problem = f"cannot be accessed ({error.strerror or error})"
        return None, [Remark(name, problem, "check its permissions", skipped=named_as_picture)]
    try:
        picture = open_picture(path, _GLANCE)
    except UnusablePicture as error:
        if named_as_picture:
            return None, [Remark(name, error.problem, error.remedy, skipped=True)]
        return None, [Remark(name, "is not an image", "it is ignored")]
    remarks = [Remark(name, *note) for note in picture.notes]
    if doubtful and not masks.has_colour(picture.image):
        remedy = "name it x.mask.png for x.jpg, or rename it if it is not a mask"
        return None, [Remark(name, "is named like a mask but matches no image", remedy, skipped=True)]
    if doubtful:
        remarks.append(
            Remark(name, "is named like a mask but has color", "it is trained on: rename or remove it if it is a mask")
        )
    crop = framing.crop(*picture.size)
    if crop.scale > 2:
        remarks.append(Remark(name, f"is upscaled {crop.scale:.1f} times", "use a larger image"))
    if crop.kept < 2 / 3:
        sizes = "{}x{} to {}x{}".format(*crop.original, *crop.size)
        remarks.append(Remark(name, f"loses {1 - crop.kept:.0%} to cropping ({sizes})", "crop it to the subject"))
    weights, source = None, None
    if use_masks:
        try:
            image = masks.read_mask(mask.path, picture.size, mask.sure) if mask is not None else picture.alpha
            weights = None if image is None else masks.cell_weights(image, crop, framing.cell)
            if mask is not None and weights is None:
                problem = "shows the whole crop, so it masks nothing"
                remarks.append(Remark(mask.name, problem, "paint all but the subject black, or remove it"))
            source = None if mask is None else mask.path
        except UnusablePicture as error:
            file = name if mask is None else mask.name
            problem = f"{error.problem}, so it is ignored"
            remarks.append(Remark(file, problem, error.remedy, skipped=mask is not None))
    likeness = perceptual_hash(picture.image)
    return Photo(path, name, picture.digest, crop, (), weights, picture.conversions, likeness, source), remarks


def _twin(photo: Photo, others: list[Photo]) -> list[Remark]:
    for other in others:
        if (other.likeness ^ photo.likeness).bit_count() <= NEAR:
            return [Remark(photo.file, f"looks like {other.file}", "keep only one if they show the same")]
    return []
