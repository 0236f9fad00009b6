"""`dreamtune pocket path` and `dreamtune pocket draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from dreamtune.pipelines import console

app = typer.Typer(help="The embedded base model, and sample images to try things with.")


@app.command()
def path() -> None:
    """Print the folder of the embedded base."""
    from dreamtune.pocket import path as folder

    console.say(folder(), longest=console.PATH)


@app.command()
def draw(
    subject: Annotated[
        int, Option(metavar="SEED", help="Number of the subject; the same number is always the same subject.")
    ],
    out: Annotated[Path, Option(help="Output folder for 00.png, 01.png, ...")],
    n: Annotated[int, Option("--n", help="Number of images.")] = 5,
    cls: Annotated[str | None, Option("--class", help="Class of the subject. (any)")] = None,
    size: Annotated[int | None, Option(help="Width and height in pixels. (the base's own)")] = None,
) -> None:
    """Render sample images of a subject in several places, as if photographed."""
    from dreamtune.pipelines.pocket import draw_pocket

    for picture in draw_pocket(subject, n, out, cls, size):
        console.say(picture, longest=console.PATH)
