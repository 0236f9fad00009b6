"""`dreamtune pocket path` and `dreamtune pocket draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from dreamtune.pipelines import console

app = typer.Typer(help="The embedded base and the little world that it was trained on.")


@app.command()
def path() -> None:
    """Print the folder of the embedded base."""
    from dreamtune.pocket import path as folder

    console.say(folder(), longest=console.PATH)


@app.command()
def draw(
    subject: Annotated[int, Option(metavar="SEED", help="Number of the subject; the same is always the same.")],
    out: Annotated[Path, Option(help="Folder for the pictures, 00.png and on.")],
    n: Annotated[int, Option("--n", help="How many.")] = 5,
    cls: Annotated[str | None, Option("--class", help="Its class (any).")] = None,
    size: Annotated[int | None, Option(help="Side in pixels (the base's own).")] = None,
) -> None:
    """Draw a subject of the pocket world, as if photographed in several places."""
    from dreamtune.pipelines.pocket import draw_pocket

    for picture in draw_pocket(subject, n, out, cls, size):
        console.say(picture, longest=console.PATH)
