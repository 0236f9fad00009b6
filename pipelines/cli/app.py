"""The command `dreamtune`: what all its commands have in common."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Annotated

import typer
from typer import Option

from dreamtune import __version__
from dreamtune.pipelines import console

COMMANDS = {
    "train": "Train an adapter on a folder of images of one subject.",
    "generate": "Generate images with a base model and any number of adapters.",
    "fuse": "Fuse several adapters into one.",
    "analyze": "Compare what adapters change in the base, and check their health.",
    "evaluate": "Measure subject fidelity, prompt fidelity and leakage of an adapter.",
    "export": "Write an adapter for other tools, or merge it into its base.",
    "inspect": "Show what an adapter file holds.",
    "trim": "Reduce the rank of an adapter, and so its file size.",
    "check": "Check a folder of training images, and list what is wrong.",
    "mask": "Write a mask of the subject beside every image.",
    "jobs": "Manage queued, running and finished jobs.",
    "worker": "Run the queued jobs.",
    "ui": "Serve the web app.",
    "doctor": "Check this installation.",
    "cache": "Show or clear cached latents, class images and decompositions.",
    "columns": "Give subjects disjoint blocks of a base's directions, so that their adapters add up.",
    "pocket": "The embedded base model, and sample images to try things with.",
}
"""Each is the function, or the group `app`, in the module of its name."""
_ELSEWHERE = {"worker": "jobs"}
"""Command -> the module it is in."""


def build(only: Collection[str] = tuple(COMMANDS)) -> typer.Typer:
    """The commands `only`; of the others the list of commands alone, since importing each takes its time."""
    app = typer.Typer(
        help="Teach Stable Diffusion your subject from a few images, with small adapters.",
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_dreamtune)
    for name, text in COMMANDS.items():
        if name not in only:
            app.command(name, help=text)(lambda: None)
            continue
        module = import_module(f"dreamtune.pipelines.cli.{_ELSEWHERE.get(name, name)}")
        if name not in _ELSEWHERE and hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=text)
        else:
            app.command(name, short_help=text)(getattr(module, name))
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # taken out here, so that it may stand anywhere
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    console.share_cores()
    command = typer.main.get_command(build([word for word in arguments if not word.startswith("-")][:1]))
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


def _dreamtune(
    version: Annotated[bool, Option("--version", help="Show the version.", is_eager=True, callback=_version)] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error, and all warnings.")] = False,
) -> None:
    pass
