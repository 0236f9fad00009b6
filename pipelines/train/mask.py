"""Automatic masks from where the base sees the subject, written next to the images for users to correct."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamtune.data.auto_masks import enlarged, failure, found_mask
from dreamtune.data.buckets import Framing
from dreamtune.data.images import Remark, UnusablePicture, open_picture, quiet
from dreamtune.data.subject import check_folder, check_usable
from dreamtune.data.survey import Photo, survey
from dreamtune.errors import ConfigError, DatasetError
from dreamtune.models import Base, load_base
from dreamtune.pipelines.output import check_place, write_png
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.train.mask_config import MaskConfig
from dreamtune.pipelines.train.mask_places import check_sheet, masks_to_make
from dreamtune.pipelines.train.mask_sheet import write_mask_sheet

DOUBTFUL = 0.8
"""Agreement below which a mask is reported as doubtful."""


@dataclass(frozen=True)
class WrittenMask:
    """One mask that was written."""

    file: str
    """Its image, by the name inside the folder."""
    mask: str
    """Its own name there."""
    covers: float
    """Share of the image that it shows, 0 to 1."""
    agreement: float
    """Intersection over union with the mask at a looser threshold of the base's map, 0 to 1."""

    @property
    def doubtful(self) -> bool:
        """Whether it should be checked before the others."""
        return self.agreement < DOUBTFUL

    def line(self) -> str:
        """The numbers on one line."""
        look = "  check it first" if self.doubtful else ""
        return f"{self.file}  covers {self.covers:.0%}, agreement {self.agreement:.2f}{look}"


@dataclass(frozen=True)
class MaskResult:
    """What was written, and which images have no new mask."""

    folder: Path
    base: str
    masks: tuple[WrittenMask, ...]
    """In order of name."""
    remarks: tuple[Remark, ...]
    """One line for each image without a new mask, with the reason."""
    sheet: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "folder": str(self.folder),
            "base": self.base,
            "masks": [vars(it) | {"doubtful": it.doubtful} for it in self.masks],
            "remarks": [vars(remark) for remark in self.remarks],
            "sheet": None if self.sheet is None else str(self.sheet),
        }


@dataclass(frozen=True, eq=False)
class _Made:
    """A mask before it is written."""

    photo: Photo
    target: Path
    small: Image.Image
    """The image as the base saw it."""
    mask: np.ndarray
    """(h, w) bool, of the same size."""
    agreement: float


def mask(config: MaskConfig, on_progress: OnProgress = lambda progress: None) -> MaskResult:
    """Write x.mask.png beside every image x of a folder that has no mask yet, white where the base sees the class.

    See data.subject_map and data.cutout for how. An image whose mask would cover everything or nothing gets none, and
    a remark; masks and cut-outs that are there stay unless `overwrite` is set, which replaces files named x.mask.png
    alone.

    Raises DatasetError for a folder without usable images, when every image has a mask or none could be made, and
    with `strict` for any that cannot; ConfigError for a class that the base cannot read, or places that cannot be
    written; BaseModelError for the base. Nothing is written then.
    """
    folder = check_folder(config.images)
    check_place(folder)
    check_sheet(config.sheet, folder)
    base = load_base(config.base, device=config.device, precision=config.precision)
    photos, remarks = survey(folder, Framing.of(base, base.resolution, buckets=base.family != "pocket"))
    check_usable(folder, photos, remarks, config.strict)
    targets, left = masks_to_make(folder, photos, config.overwrite)
    made: list[_Made] = []
    written: list[WrittenMask] = []
    refused: list[Remark] = []
    for done, it in enumerate(_make(config, base, targets, refused), 1):
        on_progress(Progress("masks", done, len(targets)))
        if it is None:
            continue
        made.append(it)
        if not config.strict:  # those that are done stay when the user stops it
            written += _write(it, config.overwrite, refused)
    if refused and config.strict:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise DatasetError(f"{folder}: {refused[0]}{more}; or run without strict to skip such images")
    if config.strict:
        written = [mask for it in made for mask in _write(it, config.overwrite, refused)]
    if not written:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise DatasetError(f"no mask could be made in {folder}: {refused[0]}{more}")
    if config.sheet is not None:
        told = {it.file: it for it in written}
        shown = {told[it.photo.file].line(): (it.small, it.mask) for it in made if it.photo.file in told}
        write_mask_sheet(config.sheet, shown)
    remarks = sorted([*(it for it in remarks if it.skipped), *left, *refused], key=lambda remark: remark.file)
    return MaskResult(folder, base.id, tuple(written), tuple(remarks), config.sheet)


def _make(
    config: MaskConfig, base: Base, targets: list[tuple[Photo, Path]], refused: list[Remark]
) -> Iterator[_Made | None]:
    """One mask after another; None, with a remark in `refused`, for an image that cannot have one."""
    for photo, target in targets:
        size = photo.crop.size
        try:
            with quiet():
                picture = open_picture(photo.path, 2 * max(size)).image
        except UnusablePicture as error:
            refused.append(Remark(photo.file, f"has changed in the meantime: it {error.problem}", error.remedy, True))
            yield None
            continue
        small, made, agreement = found_mask(
            base, picture, size, config.class_word, config.seed, grab=config.refine == "grabcut"
        )
        problem = failure(float(made.mean()), config.class_word)
        if problem:
            refused.append(Remark(photo.file, problem, "draw a mask by hand, or try another class word or base", True))
            yield None
        else:
            yield _Made(photo, target, small, made, agreement)


def _write(made: _Made, overwrite: bool, refused: list[Remark]) -> list[WrittenMask]:
    """The mask as a file of the image's size; none if another process has made one meanwhile. Raises ConfigError."""
    large = enlarged(made.mask, made.photo.crop.original)
    try:
        write_png(made.target, large, replace=overwrite)
    except FileExistsError:
        refused.append(
            Remark(made.photo.file, f"got the mask {made.target.name} in the meantime", "that one is kept", True)
        )
        return []
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write {made.target}: {reason}; masks written before it are complete") from None
    return [WrittenMask(made.photo.file, made.target.name, float(made.mask.mean()), made.agreement)]
