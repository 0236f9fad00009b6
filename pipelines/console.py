"""What the command line writes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from dreamtune.errors import ConfigError, DreamtuneError, first_line
from dreamtune.text import LONGEST, bounded, inert

PATH = 5000
"""Characters of a path on a line of its own, for programs to read."""
LAYERS_SHOWN = 10
"""Layers that a command lists; --json has them all."""
_HUSH = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


_NO_HOME = "Could not determine home directory."
"""pathlib's error for a path like ~nobody/x."""
SPIN = "20000"
"""Turns that a thread of torch waits for the others before it sleeps; the library's own number is 300,000."""


def share_cores() -> None:
    """Let torch's threads sleep soon when they wait; to be called before torch is imported.

    By default they keep their cores busy while they wait. Where other work holds a core (or a container may use fewer
    cores than it sees) each of the thousand waits of a step then takes whole slices of the scheduler's time: training
    beside two busy processes on two cores was measured at a hundredth of its speed, and at a tenth with this. What the
    user's environment says is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep warnings and advice of the libraries, meant for programmers, off the terminal."""
    for name, value in _HUSH.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Send what is printed within the block to stderr, so that stdout has nothing but the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def say(text: object = "", end: str = "\n", file: TextIO | None = None, longest: int = LONGEST) -> None:
    """Print to stdout, or `file`: the one way in which text of names, files and messages reaches a terminal.

    It is kept inert (see :func:`~dreamtune.text.inert`) and each line short.
    """
    lines = (bounded(line, longest) for line in inert(str(text)).split("\n"))
    print("\n".join(lines), end=end, file=file or sys.stdout, flush=file is not None)


def print_json(result: Mapping[str, Any]) -> None:
    """One JSON object on stdout, in which no character of others acts on a terminal."""
    text = json.dumps(result, ensure_ascii=False)
    print(text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def print_error(error: Exception, debug: bool) -> int:
    """Print in a line or two what went wrong; return the exit code.

    Our own errors and usage errors say what to do. Any other error is a bug in this program.
    """
    if debug:
        say("".join(traceback.format_exception(error)), end="", file=sys.stderr)
    if isinstance(error, RuntimeError) and str(error) == _NO_HOME:
        error = ConfigError("a path starts with ~, but there is no such home folder on this machine: use the full path")
    if isinstance(error, DreamtuneError):
        say(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    # typer's usage errors, whose class has moved from click into typer itself: known by what they can do
    explain = getattr(error, "format_message", None)
    if explain:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dreamtune"
        say(f"Error: {explain()}\nSee: {command} --help", file=sys.stderr)
        return 2
    say(f"Error: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
    if not debug:
        say("This is a bug in dreamtune: please report it with the output of --debug.", file=sys.stderr)
    return 1
