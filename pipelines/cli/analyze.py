"""`dreamtune analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dreamtune.pipelines import console
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.cli.from_config import Json, Queue, options_of
from dreamtune.pipelines.cli.jobs import enqueue

if TYPE_CHECKING:
    from dreamtune.pipelines.analyze.report import Report

_SHOWN = 8
"""Lines on pairs that are printed."""


@options_of(
    AnalyzeConfig,
    flags={"subjects": "--subject", "trajectories": "--trajectory"},
    metavars={"adapters": "FILE...", "trajectories": "RUN_DIR"},
    argument="adapters",
)
def analyze(
    given: dict[str, Any],
    out: Annotated[Path, Option(help="New folder for the report.")],
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Compare adapters by the directions of the base's weights that they change, and check their health."""
    from dreamtune.pipelines.analyze.run import analyze as run

    config = AnalyzeConfig(**given)
    if queue:
        enqueue("analyze", config, out, as_json)
        return
    with console.stdout_kept():
        report = run(config, out)
    if as_json:
        console.print_json({"out": str(out), **report.to_dict()})
    else:
        show(report, out)


def show(report: Report, out: Path) -> None:
    """Where the report is, and what it advises; on many pairs only there."""
    from dreamtune.pipelines.analyze.advice import leading, on_adapters, on_pairs, overall

    console.say(f"{out / 'report.html'}  ({len(report.layers)} layers, {report.seconds:.0f} s)")
    pairs, first = on_pairs(report), leading(report)
    for line in first if len(report.numbers) <= _SHOWN else first[-1:]:
        console.say(line)
    for line in [*overall(report), *on_adapters(report), *(pairs if len(pairs) <= _SHOWN else [])]:
        console.say(f"- {line}")
    if len(pairs) > _SHOWN:
        console.say(f"- {len(report.numbers)} pairs: see the report")
