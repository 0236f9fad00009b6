"""`dreamtune columns`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from typer import Argument, Option

from dreamtune.fusion import Columns
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json
from dreamtune.storage import data_dir

app = typer.Typer(help="Give subjects disjoint blocks of a base's directions, so that their adapters add up.")

Concept = Annotated[str, Argument(help="Name of the subject, e.g. its token.")]
BaseName = Annotated[str, Option("--base", help="Base model, by the name its adapters record.")]


@app.command("list")
def list_(
    base: Annotated[str | None, Option(help="Only blocks of this base.")] = None,
    as_json: Json = False,
) -> None:
    """Show the blocks that are reserved."""
    found = Columns(data_dir() / "columns.json").blocks(base)
    if as_json:
        console.print_json({"blocks": [asdict(block) for block in found]})
        return
    console.say(f"{'base':20} {'kind':10} {'block':>5} {'rank':>4}  {'directions':12}concept")
    for block in found:
        span = f"{block.columns.start}-{block.columns.stop - 1}"
        console.say(f"{block.base:20} {block.kind:10} {block.offset:5} {block.rank:4}  {span:12}{block.concept}")


@app.command()
def reserve(
    concept: Concept,
    base: BaseName = "pocket",
    kind: Annotated[str, Option(help="spectral (for spectral-a and spectral-r) or orthogonal.")] = "spectral",
    rank: Annotated[int, Option(help="Rank of the training.")] = 8,
    offset: Annotated[int | None, Option(help="Number of the block. (the first free one)")] = None,
    as_json: Json = False,
) -> None:
    """Reserve a block for a subject, and show how to train on it."""
    block = Columns(data_dir() / "columns.json").reserve(base, concept, kind, rank, offset)
    if as_json:
        console.print_json(asdict(block))
    else:
        method = "spectral-a" if kind == "spectral" else kind
        console.say(f"{concept} has {kind} block {block.offset} of {base}. Train it with")
        console.say(f"  --method {method} --rank {rank} --set method_options.{block.option}")


@app.command()
def free(concept: Concept, base: BaseName = "pocket", as_json: Json = False) -> None:
    """Release the blocks of a subject."""
    gone = Columns(data_dir() / "columns.json").free(base, concept)
    if as_json:
        console.print_json({"freed": [asdict(block) for block in gone]})
    else:
        console.say(f"{concept} no longer has a block of {base}")
