"""`dreamtune mask`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json, options_of
from dreamtune.pipelines.train.mask_config import MaskConfig

if TYPE_CHECKING:
    from dreamtune.pipelines.train.mask import MaskResult


@options_of(
    MaskConfig,
    flags={"class_word": "--class"},
    metavars={"images": "IMAGES_DIR", "sheet": "FILE"},
    argument="images",
)
def mask(given: dict[str, Any], as_json: Json = False) -> None:
    """Write a mask beside every image: white where the base sees the subject. Check the masks, and correct them."""
    from dreamtune.pipelines.progress import Printer
    from dreamtune.pipelines.train.mask import mask as run

    config = MaskConfig(**given)
    with console.stdout_kept(), Printer() as on_progress:
        result = run(config, on_progress=on_progress)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: MaskResult) -> None:
    """A line per mask with its figures, and one per picture without a new one."""
    names = ["mask", *(it.mask for it in result.masks)]
    width = min(60, max(map(len, names)))
    console.say(f"{'mask':{width}}  covers  agreement")
    for it in result.masks:
        console.say(f"{it.mask:{width}}  {it.covers:6.1%}  {it.agreement:9.2f}{'  look' * it.doubtful}")
    for remark in result.remarks:
        console.say(remark)
    doubtful = sum(it.doubtful for it in result.masks)
    first = f", {doubtful} marked 'look' first" if doubtful else ""
    console.say(f"{len(result.masks)} masks written to {result.folder}: look at them{first}, and correct them by hand")
    if result.sheet is not None:
        console.say(f"all outlines: {result.sheet}")
