"""Where new masks and their sheet are written, and which images keep the mask they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dreamtune.data.images import LAID_ON_WHITE, Remark
from dreamtune.data.mask_files import MaskFiles, marked
from dreamtune.data.survey import Photo
from dreamtune.errors import ConfigError, DatasetError
from dreamtune.pipelines.output import check_new_file
from dreamtune.words import one_form

_AGAIN = "set overwrite (--overwrite) to make a new one"


def check_sheet(sheet: Path | None, folder: Path) -> None:
    """Raise ConfigError for a sheet that cannot be written, or that would be one of the images in `folder`."""
    if sheet is None:
        return
    check_new_file(sheet, ".png")
    if sheet.parent.resolve() == folder:
        raise ConfigError(f"the sheet {sheet} would be trained on: choose a path outside the image folder")


def masks_to_make(
    folder: Path, photos: Sequence[Photo], overwrite: bool
) -> tuple[list[tuple[Photo, Path]], list[Remark]]:
    """The images that are to have a new mask, each with its file, and a remark on each of the others.

    Files are called x.mask.png for x.jpg, or x.jpg.mask.png where there is an x.png too. Without `overwrite` images
    that have a mask of any name, or are cut out, are left alone; with it a file of that very name is replaced, and no
    other. Raises DatasetError if nothing is left to do.
    """
    entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    drawn = MaskFiles.find(entries)
    stems = Counter(one_form(photo.path.stem) for photo in photos)
    places: list[tuple[Photo, Path]] = []
    remarks: list[Remark] = []
    for photo in photos:
        name = photo.path.stem if stems[one_form(photo.path.stem)] == 1 else photo.path.name
        place, there = folder / f"{name}.mask.png", drawn.of(photo.path)
        own = there is not None and marked(there.path) == (one_form(name), ".mask")
        if there is not None and own and there.path.suffix.lower() == ".png":
            place = there.path  # its name may be written in another Unicode form, or in capitals
        if there is not None and own and place != there.path:
            problem = f"has the mask {there.name}, which takes precedence over {place.name}"
            remarks.append(Remark(photo.file, problem, "rename or delete it to make a new one"))
        elif there is not None and not overwrite:
            remarks.append(Remark(photo.file, f"already has the mask {there.name}, which is kept", _AGAIN))
        elif there is None and LAID_ON_WHITE in photo.conversions and not overwrite:
            remarks.append(Remark(photo.file, "is transparent: its opaque part is its mask, which is kept", _AGAIN))
        elif place.is_dir():
            remarks.append(Remark(photo.file, f"gets no mask: {place.name} is a folder", "rename that folder"))
        else:
            places.append((photo, place))
    if not places:
        more = f" (and {len(remarks) - 1} more)" if len(remarks) > 1 else ""
        raise DatasetError(f"nothing to do in {folder}: {remarks[0]}{more}")
    return places, remarks
