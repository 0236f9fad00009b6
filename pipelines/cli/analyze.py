"""`dreamtune analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.cli.options import AnyBase, Base, Device, Json, Queue

if TYPE_CHECKING:
    from dreamtune.pipelines.analyze.report import Report

_SHOWN = 8
"""Lines on pairs that are printed."""


def analyze(
    files: Annotated[list[str], Argument(metavar="FILE...", help="Adapter files, of dreamtune or another tool.")],
    out: Annotated[Path, Option(help="New folder for the report.")],
    subject: Annotated[
        list[str] | None,
        Option(help="Name of each file's subject, in their order; equal names are seeds of one subject."),
    ] = None,
    layers: Annotated[str, Option(help="Only layers whose path holds this regular expression.")] = "",
    blocks: Annotated[list[str] | None, Option(help="Only down, mid, up or text; may be given again.")] = None,
    trajectory: Annotated[
        list[str] | None, Option(metavar="RUN_DIR", help="Run with --track-tsd, to compare with each file.")
    ] = None,
    top_k: Annotated[int, Option(help="Directions in a layer's list.")] = 8,
    base: Base = "auto",
    any_base: AnyBase = False,
    interference: Annotated[
        bool, Option("--interference/--no-interference", help="Draw with each adapter, to forecast how they disturb.")
    ] = True,
    timestep_profile: Annotated[
        bool, Option("--timestep-profile", help="Show at which steps of a drawing each adapter acts.")
    ] = False,
    steps: Annotated[int, Option(help="Denoising steps of that drawing.")] = 6,
    seed: Annotated[int, Option(help="Seed of its noise.")] = 0,
    device: Device = "auto",
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Compare adapters by the directions of the base's weights that they change, and check their health."""
    from dreamtune.pipelines.analyze.config import AnalyzeConfig
    from dreamtune.pipelines.analyze.run import analyze as run

    given: dict[str, Any] = {
        "adapters": files,
        "subjects": subject or (),
        "layers": layers,
        "blocks": blocks or (),
        "trajectories": trajectory or (),
        "top_k": top_k,
        "base": base,
        "any_base": any_base,
        "interference": interference,
        "timestep_profile": timestep_profile,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
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
