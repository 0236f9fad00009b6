"""What dreamtune does with an adapter file: calls for tests.bounded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from dreamtune.models import Base, load_base
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.app import main


def use(path: str, base: str) -> int:
    """`dreamtune inspect`, and what `generate` and `fuse` then do with it: read it and put it on the base."""
    code = main(["inspect", path])
    if code:
        return code
    from dreamtune.adapters.formats import read_adapter

    try:
        _base(base).attach(read_adapter(Path(path)).file).detach()
    except Exception as error:
        return console.print_error(error, debug=False)
    return 0


@cache
def _base(folder: str) -> Base:
    return load_base(folder, "cpu")
