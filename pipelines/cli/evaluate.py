"""`dreamtune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json, Queue, options_of
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from dreamtune.pipelines.evaluate.run import EvaluateResult


@options_of(
    EvaluateConfig,
    flags={"class_word": "--class"},
    metavars={"adapter": "FILE[:STRENGTH]", "images": "IMAGES_DIR", "prompts": "FILE"},
    argument="adapter",
)
def evaluate(
    given: dict[str, Any],
    out: Annotated[Path, Option(help="New folder for the report.")],
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Measure how well an adapter shows its subject, follows prompts and leaves its class alone."""
    from dreamtune.pipelines.evaluate.run import evaluate as run

    config = EvaluateConfig(**given)
    if queue:
        enqueue("evaluate", config, out, as_json)
        return
    with console.stdout_kept():
        result = run(config, out)
    if as_json:
        console.print_json({"out": str(result.out), **result.to_dict()})
    else:
        show(result)


def show(result: EvaluateResult) -> None:
    """The report, and the figures in it."""
    from dreamtune.pipelines.evaluate.report import show as cell

    figures = result.to_dict()
    console.say(f"{result.out / 'report.html'}  (judged by {result.judge}, {result.seconds:.0f} s)")
    console.say(f"{'':17}{'base':>6} {'adapter':>8} {'real':>6}")
    for name in ("subject_fidelity", "likeness", "prompt_fidelity"):
        row = {"real": 1.0 if name == "subject_fidelity" else None} | figures[name]
        label = name.replace("_", " ")
        console.say(f"{label:17}{cell(row['base']):>6} {cell(row['adapter']):>8} {cell(row['real']):>6}")
    for name in ("leak", "drift"):
        console.say(f"{name:17}{'0.00':>6} {cell(figures[name]):>8}")
