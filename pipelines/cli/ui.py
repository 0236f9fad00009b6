"""`dreamtune ui`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

from typer import Option


def ui(
    host: Annotated[
        str, Option(help="Address to listen on. Any but this machine's own requires --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)] = 7860,
    auth: Annotated[
        str | None, Option(metavar="USER:PASSWORD", help="Login required to open the app.", envvar="DREAMTUNE_AUTH")
    ] = None,
    home: Annotated[
        Path | None, Option(help="Folder for runs, adapters and images. (~/.local/share/dreamtune)")
    ] = None,
    images: Annotated[
        list[Path] | None,
        Option(metavar="DIR", help="Folder with training images to offer in the app; may be repeated."),
    ] = None,
    bases: Annotated[
        list[Path] | None, Option(metavar="DIR", help="Folder with base models to offer in the app; may be repeated.")
    ] = None,
    workers: Annotated[int, Option(help="Jobs to run at the same time.", min=1, max=16)] = 1,
) -> None:
    """Serve the web app: train, generate, fuse and analyze in the browser."""
    # by name: the app stands above the pipelines, which must not need it
    launch = importlib.import_module("dreamtune.ui.launch")
    launch.serve(launch.Settings(host, port, auth, home, tuple(images or ()), tuple(bases or ()), workers))
