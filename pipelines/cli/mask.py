"""`dreamtune mask`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.options import Device, Json

if TYPE_CHECKING:
    from dreamtune.pipelines.train.mask import MaskResult


def mask(
    images: Annotated[Path, Argument(metavar="IMAGES_DIR", help="Folder with pictures of the subject.")],
    class_word: Annotated[str, Option("--class", help="What the subject is: dog, backpack, ...")],
    base: Annotated[str, Option(help="Base model that is asked where it sees the subject.")] = "pocket",
    refine: Annotated[str, Option(help="How edges are found: grabcut, or none for the base's map alone.")] = "grabcut",
    sheet: Annotated[Path | None, Option(help="PNG to write with all outlines, to look through.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace masks x.mask.png that are there.")] = False,
    strict: Annotated[bool, Option("--strict", help="Write nothing if any picture gets no mask.")] = False,
    seed: Annotated[int, Option(help="Of the noise under which the base looks at the pictures.")] = 0,
    device: Device = "auto",
    precision: Annotated[str, Option(help="fp32, bf16 or fp16.")] = "fp32",
    as_json: Json = False,
) -> None:
    """Write a mask beside every picture: white where the base sees the subject. Look at them, and correct them."""
    from dreamtune.pipelines.progress import Printer
    from dreamtune.pipelines.train.mask import MaskConfig
    from dreamtune.pipelines.train.mask import mask as run

    config = MaskConfig.from_mapping(
        {
            "images": images,
            "class_word": class_word,
            "base": base,
            "refine": refine,
            "sheet": sheet,
            "overwrite": overwrite,
            "strict": strict,
            "seed": seed,
            "device": device,
            "precision": precision,
        },
        source="the options",
    )
    with console.stdout_kept(), Printer() as tell:
        result = run(config, on_progress=tell)
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
