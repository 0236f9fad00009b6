"""`dreamtune cache`."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cache import clear_cache, list_cache
from dreamtune.pipelines.cli.from_config import Json
from dreamtune.pipelines.output import human

app = typer.Typer(help="Cached latents, prompts, class images and decompositions. They can be deleted at any time.")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show what the cache contains: kinds, entries, sizes and days since last use."""
    use = list_cache()
    if as_json:
        console.print_json(use.to_dict())
        return
    console.say(f"{use.folder}  ({human(use.size)} of at most {human(use.limit)})")
    if use.kinds:
        console.say(f"{'kind':10} {'entries':>7} {'size':>9}  last used")
    for kind in use.kinds:
        ages = f"{kind.newest:.1f} to {kind.oldest:.1f} days ago"
        console.say(f"{kind.kind:10} {kind.entries:7} {human(kind.size):>9}  {ages}")


@app.command()
def clear(
    kind: Annotated[str | None, Option(help="Only this kind: latents, prompts, prior, svd or recordings.")] = None,
    older_than: Annotated[
        str | None, Option("--older-than", metavar="TIME", help="Only entries not used for this long: 30d, 12h.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove entries from the cache. Whatever is needed again is recomputed."""
    cleared = clear_cache(kind, older_than)
    if as_json:
        console.print_json(cleared.to_dict())
    else:
        console.say(f"{cleared.entries} entries removed, {human(cleared.size)}")
