"""`dreamtune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.cli.options import (
    AnyBase,
    Base,
    Device,
    Guidance,
    Json,
    Precision,
    Queue,
    Seed,
    Size,
    Steps,
)

if TYPE_CHECKING:
    from dreamtune.pipelines.evaluate.run import EvaluateResult


def evaluate(
    file: Annotated[str, Argument(metavar="FILE[:STRENGTH]", help="Adapter file, of dreamtune or another tool.")],
    images: Annotated[Path, Option(help="Folder with pictures of the subject.")],
    out: Annotated[Path, Option(help="New folder for the report.")],
    prompts: Annotated[Path | None, Option(help="One prompt per line, with {token} and {class} (ten places).")] = None,
    token: Annotated[str | None, Option(help="The word for the subject (what the file tells).")] = None,
    class_word: Annotated[str | None, Option("--class", help="What the subject is (what the file tells).")] = None,
    base: Base = "auto",
    dino: Annotated[
        str | None, Option(help="DINO that knows individuals, a folder or hub id (pocket has its own).")
    ] = None,
    clip: Annotated[
        str | None, Option(help="CLIP that reads prompts, a folder or hub id (pocket has its own).")
    ] = None,
    n: Annotated[int, Option("--n", help="Pictures per prompt; each is drawn three times.")] = 2,
    steps: Steps = None,
    guidance: Guidance = None,
    size: Size = None,
    seed: Seed = 0,
    any_base: AnyBase = False,
    device: Device = "auto",
    precision: Precision = None,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Measure how well an adapter shows its subject, follows prompts and leaves its class alone."""
    from dreamtune.pipelines.evaluate.run import EvaluateConfig
    from dreamtune.pipelines.evaluate.run import evaluate as run

    given: dict[str, Any] = {
        "adapter": file,
        "images": images,
        "prompts": prompts,
        "token": token,
        "class_word": class_word,
        "base": base,
        "dino": dino,
        "clip": clip,
        "n": n,
        "steps": steps,
        "guidance": guidance,
        "size": size,
        "seed": seed,
        "any_base": any_base,
        "device": device,
        "precision": precision,
    }
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
