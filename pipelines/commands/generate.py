"""`dreamtune generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dreamtune.pipelines import console
from dreamtune.pipelines.commands.options import AnyBase, Base, Device, Guidance, Json, Precision, Seed, Size, Steps

if TYPE_CHECKING:
    from dreamtune.pipelines.generate import GenerateResult


def generate(
    prompt: Annotated[list[str], Option(help="What to draw; may be given several times.")],
    out: Annotated[Path, Option(help="Folder for the pictures, numbered after those that are there.")],
    adapter: Annotated[
        list[str] | None, Option(metavar="FILE[:STRENGTH]", help="Adapter file; several add up.")
    ] = None,
    region: Annotated[
        list[str] | None,
        Option(
            metavar="FILE[:STRENGTH]@x0,y0,x1,y1=PROMPT", help="What is to be in a box of the picture, by its adapter."
        ),
    ] = None,
    base: Base = "auto",
    n: Annotated[int, Option("--n", help="Pictures per prompt.")] = 4,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Annotated[str, Option(help="What to lead away from.")] = "",
    size: Size = None,
    seed: Seed = 0,
    any_base: AnyBase = False,
    device: Device = "auto",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """Draw pictures with a base and any number of adapters."""
    from dreamtune.pipelines.generate import GenerateConfig
    from dreamtune.pipelines.generate import generate as run

    config: dict[str, Any] = {
        "prompts": prompt,
        "adapters": adapter or [],
        "regions": region or [],
        "base": base,
        "n": n,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative,
        "size": size,
        "seed": seed,
        "any_base": any_base,
        "device": device,
        "precision": precision,
    }
    with console.stdout_kept():
        result = run(GenerateConfig(**config), out)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: GenerateResult) -> None:
    """The files, one a line."""
    for path in result.files:
        print(path)
