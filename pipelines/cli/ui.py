"""`dreamtune ui`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

from typer import Option


def ui(
    host: Annotated[
        str, Option(help="Address to listen at; others than this machine's own need --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(help="Port to listen at; 0 takes any that is free.", min=0, max=65535)] = 7860,
    auth: Annotated[
        str | None, Option(metavar="USER:PASSWORD", help="Who may come in.", envvar="DREAMTUNE_AUTH")
    ] = None,
    home: Annotated[
        Path | None, Option(help="Folder for runs, adapters and pictures (~/.local/share/dreamtune).")
    ] = None,
    images: Annotated[
        list[Path] | None, Option(metavar="DIR", help="Folder of yours whose pictures may be trained on; repeatable.")
    ] = None,
    bases: Annotated[
        list[Path] | None, Option(metavar="DIR", help="Folder of yours with base models; repeatable.")
    ] = None,
    workers: Annotated[int, Option(help="Jobs that run at a time.", min=1, max=16)] = 1,
) -> None:
    """Serve the app: train, generate, fuse and analyze in the browser."""
    # by name: the app stands above the pipelines, which must not need it
    launch = importlib.import_module("dreamtune.ui.launch")
    launch.serve(launch.Settings(host, port, auth, home, tuple(images or ()), tuple(bases or ()), workers))
