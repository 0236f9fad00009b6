"""The command `dreamtune`: what all its commands have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer import Option

from dreamtune import __version__
from dreamtune.pipelines import console
from dreamtune.pipelines.cli import (
    analyze,
    cache,
    check,
    columns,
    doctor,
    evaluate,
    export,
    fuse,
    generate,
    inspect,
    jobs,
    mask,
    pocket,
    train,
    trim,
    ui,
)

app = typer.Typer(
    help="Teach Stable Diffusion your subject from a few pictures, with small adapters.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=train.WithSettings)(train.train)
app.command()(generate.generate)
app.command()(inspect.inspect)
app.command()(export.export)
app.command()(evaluate.evaluate)
app.command()(analyze.analyze)
app.command()(trim.trim)
app.command()(fuse.fuse)
app.command()(check.check)
app.command()(mask.mask)
app.command()(doctor.doctor)
app.command()(jobs.worker)
app.command()(ui.ui)
app.add_typer(cache.app, name="cache")
app.add_typer(columns.app, name="columns")
app.add_typer(jobs.app, name="jobs")
app.add_typer(pocket.app, name="pocket")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # taken out here, so that it may stand anywhere
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    console.share_cores()
    command = typer.main.get_command(app)
    try:
        if debug:
            code = command.main(arguments, prog_name="dreamtune", standalone_mode=False)
        else:
            with console.hushed():
                code = command.main(arguments, prog_name="dreamtune", standalone_mode=False)
    except Exception as error:
        return console.print_error(error, debug)
    if code == 130:  # Ctrl-C, which typer turns into this code
        console.say("Stopped.", file=sys.stderr)
    return code or 0


def _version(value: bool) -> None:
    if value:
        console.say(f"dreamtune {__version__}")
        raise typer.Exit


@app.callback()
def _dreamtune(
    version: Annotated[bool, Option("--version", help="Show the version.", is_eager=True, callback=_version)] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error, and all warnings.")] = False,
) -> None:
    pass
