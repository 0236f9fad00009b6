"""What the command line writes to the terminal: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dreamtune.errors import DreamtuneError, first_line

if TYPE_CHECKING:
    from dreamtune.pipelines.doctor import DoctorResult
    from dreamtune.pipelines.export import ExportResult
    from dreamtune.pipelines.generate import GenerateResult
    from dreamtune.pipelines.inspect import InspectResult
    from dreamtune.pipelines.train import TrainResult

LAYERS_SHOWN = 10
"""Layers that `inspect` lists; --json has them all."""
_HUSH = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


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
    """Send to stderr what is printed within the block, so that stdout holds nothing but the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(result: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(result, ensure_ascii=False))


def print_error(error: Exception, debug: bool) -> int:
    """Say in a line or two what went wrong; return the exit code.

    Errors of ours and of the command line's syntax say what to do. Any other is a fault of this program.
    """
    if debug:
        traceback.print_exception(error)
    if isinstance(error, DreamtuneError):
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    # typer's usage errors, whose class has moved from click into typer itself: known by what they can do
    explain = getattr(error, "format_message", None)
    if explain:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dreamtune"
        print(f"Error: {explain()}\nSee: {command} --help", file=sys.stderr)
        return 2
    print(f"Error: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
    if not debug:
        print("This is a fault of dreamtune: please report it with what --debug shows.", file=sys.stderr)
    return 1


def print_training(result: TrainResult) -> None:
    """Where the adapter is, and how to use it."""
    loss = "" if result.final_loss is None else f", loss {result.final_loss:.4f}"
    print(f"{result.adapter}  ({result.steps} steps, {result.seconds:.0f} s{loss})")
    print(f'Try: dreamtune generate --adapter {result.adapter} --prompt "{result.example}" --out pictures')


def print_pictures(result: GenerateResult) -> None:
    """The files, one a line."""
    for path in result.files:
        print(path)


def print_inspection(result: InspectResult) -> None:
    """The summary, and the layers that change most."""
    summary = result.summary
    print(f"{result.path}  ({result.size} bytes)")
    options = ", ".join(f"{key} {value}" for key, value in summary["config"].items())
    print(f"method      {summary['method']} ({options})")
    print(f"base        {summary['base'] or 'not known'}")
    print(f"subject     {summary['trigger']} {summary['class']}".rstrip())
    print(f"parameters  {summary['parameters']} in {summary['layers']} layers")
    print(f"written by  {result.tool}")
    for remark in result.remarks:
        print(f"remark      {remark}")
    if len(result.layers) < summary["layers"]:
        print("The changes of these layers depend on the weights: give --base to measure them.")
    if not result.layers:
        return
    print(f"\n{'energy':>6}  {'|dW|':>9}  {'rank used':>9}  layer")
    for layer in result.layers[:LAYERS_SHOWN]:
        print(f"{layer.energy:6.1%}  {layer.norm:9.4g}  {layer.rank_used:9}  {layer.path}")
    if len(result.layers) > LAYERS_SHOWN:
        print(f"... and {len(result.layers) - LAYERS_SHOWN} more")


def print_export(result: ExportResult) -> None:
    """What was written, how exact it is, and the layers that kept least."""
    print(f"{result.out}  ({result.format}: {result.method} as {result.written_as}, {result.dtype})")
    for remark in result.remarks:
        print(f"remark      {remark}")
    if not result.layers:
        return
    worst = result.worst
    print(f"{'exact' if result.exact else 'not exact':11} largest error of a change: {worst['max_abs_error']:.2g}")
    if result.exact:
        return
    print(f"\n{'energy kept':>11}  {'error/|dW|':>10}  layer")
    for layer in sorted(result.layers, key=lambda layer: layer.energy)[:LAYERS_SHOWN]:
        print(f"{layer.energy:11.2%}  {layer.relative:10.2g}  {layer.path}")
    if len(result.layers) > LAYERS_SHOWN:
        print(f"... and {len(result.layers) - LAYERS_SHOWN} more")


def print_diagnosis(result: DoctorResult) -> None:
    """A line per check, and below it what to do."""
    for check in result.checks:
        print(f"{check.state:8} {check.name:16} {check.value}")
        if check.remedy:
            print(f"{'':25} -> {check.remedy}")
