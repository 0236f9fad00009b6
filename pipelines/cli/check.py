"""`dreamtune check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dreamtune.errors import DatasetError
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json

if TYPE_CHECKING:
    from dreamtune.pipelines.train.check import CheckResult


def check(
    images: Annotated[Path, Argument(metavar="IMAGES_DIR", help="Folder with images of the subject.")],
    base: Annotated[str, Option(help="Base model the images are for.")] = "pocket",
    resolution: Annotated[int | None, Option(help="Training resolution in pixels. (the base's own)")] = None,
    token: Annotated[str | None, Option(help="Token that captions must contain.")] = None,
    class_word: Annotated[str, Option("--class", help="What the subject is: dog, backpack, ...")] = "",
    strict: Annotated[bool, Option("--strict", help="Fail if any image cannot be used.")] = False,
    as_json: Json = False,
) -> None:
    """Report which images of a folder training would use, and what is wrong with the others."""
    from dreamtune.pipelines.progress import Printer
    from dreamtune.pipelines.train.check import check as run
    from dreamtune.pipelines.train.check import patiently

    with console.stdout_kept(), Printer() as tell:
        result = run(images, base, resolution, token, class_word, strict, on_progress=patiently(tell))
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)
    if result.error:
        raise DatasetError(result.error)


def show(result: CheckResult) -> None:
    """A line per problem, and what can be used."""
    for remark in result.remarks:
        console.say(remark)
    captions = sum(bool(photo.captions) for photo in result.photos)
    masks = sum(photo.mask is not None for photo in result.photos)
    console.say(f"{len(result.photos)} usable images, {captions} with a caption, {masks} with a mask")
    for title, counts in (("trained at", result.shapes), ("converted", result.conversions)):
        if counts:
            console.say(f"{title}: {', '.join(f'{name} ({count})' for name, count in counts.items())}")
