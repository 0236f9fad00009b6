"""`dreamtune inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json

if TYPE_CHECKING:
    from dreamtune.pipelines.export.inspect import InspectResult


def inspect(
    file: Annotated[Path, Argument(metavar="FILE", help="Adapter file of any supported tool.")],
    base: Annotated[
        str | None, Option(help="The adapter's base, to measure changes that depend on its weights.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what an adapter file contains."""
    from dreamtune.pipelines.export.inspect import inspect as run

    with console.stdout_kept():
        result = run(file, base)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: InspectResult) -> None:
    """The summary, and the layers that change most."""
    summary = result.summary
    console.say(f"{result.path}  ({result.size} bytes)")
    options = ", ".join(f"{key} {value}" for key, value in summary["config"].items())
    console.say(f"method      {summary['method']} ({options})")
    console.say(f"base        {summary['base'] or 'unknown'}")
    subjects = [f"{it['token']} {it['class']}".strip() for it in summary["subjects"]]
    console.say(f"{'subjects' if len(subjects) > 1 else 'subject':11} {', '.join(subjects)}".rstrip())
    console.say(f"parameters  {summary['parameters']} in {summary['layers']} layers")
    own = {summary["token"]: summary["embeddings"]} if summary["embeddings"] else {}
    for word, sizes in {**own, **summary["further_embeddings"]}.items():
        count = max(shape[0] for shape in sizes.values())
        console.say(f"new token   {word}, {count} vectors in {' and '.join(sizes)}")
    for state in result.state:
        console.say(f"state       {state}")
    console.say(f"written by  {result.tool}")
    for remark in result.remarks:
        console.say(f"remark      {remark}")
    if len(result.layers) < summary["layers"]:
        console.say("The changes of these layers depend on the base's weights: use --base to measure them.")
    if not result.layers:
        return
    console.say(f"\n{'energy':>6}  {'|dW|':>9}  {'rank used':>9}  layer")
    for layer in result.layers[: console.LAYERS_SHOWN]:
        console.say(f"{layer.energy:6.1%}  {layer.norm:9.4g}  {layer.rank_used:9}  {layer.path}")
    if len(result.layers) > console.LAYERS_SHOWN:
        console.say(f"... and {len(result.layers) - console.LAYERS_SHOWN} more")
