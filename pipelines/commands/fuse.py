"""`dreamtune fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.commands.options import Device, Json

if TYPE_CHECKING:
    from dreamtune.pipelines.fuse import FuseResult


def fuse(
    files: Annotated[
        list[str],
        Argument(metavar="FILE[:WEIGHT][,BLOCK=FACTOR]...", help="Adapter files, of dreamtune or other tools."),
    ],
    out: Annotated[Path, Option(help="File to write, which must not exist.")],
    method: Annotated[
        str, Option(help="sum, mean, ties, dare, magnitude, tsv, knots, gradient or custom-diffusion.")
    ] = "sum",
    density: Annotated[
        float | None, Option(help="Share of the numbers that ties, dare, magnitude and knots keep (0.5).")
    ] = None,
    balance: Annotated[
        str | None,
        Option(help="First make all changes of a layer as large: their weights, or what they do to its output."),
    ] = None,
    rank: Annotated[
        int | None, Option(help="The most that a layer may have (exact where that is small, else 64).")
    ] = None,
    form: Annotated[str, Option("--format", help="adapter, or checkpoint for the base's file, changed.")] = "adapter",
    base: Annotated[str | None, Option(help="The base, where it is needed (the adapters' own).")] = None,
    any_base: Annotated[bool, Option("--any-base", help="Allow another base than the adapters'.")] = False,
    seed: Annotated[int, Option(help="Of what dare draws, and of the pictures that are recorded.")] = 0,
    prompts: Annotated[
        Path | None,
        Option(help="What gradient and custom-diffusion read and draw, a prompt a line (each subject in ten places)."),
    ] = None,
    captions: Annotated[
        Path | None, Option(help="What custom-diffusion leaves alone, a caption a line (common things in ten places).")
    ] = None,
    steps: Annotated[int, Option(help="Denoising steps of the pictures that are recorded.")] = 10,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make one adapter of several, and say how much of each layer it keeps."""
    from dreamtune.pipelines.fuse import FuseConfig
    from dreamtune.pipelines.fuse import fuse as run
    from dreamtune.pipelines.generate_config import read_prompts

    config: dict[str, Any] = {
        "adapters": files,
        "method": method,
        "density": density,
        "balance": balance,
        "rank": rank,
        "format": form,
        "base": base,
        "any_base": any_base,
        "seed": seed,
        "prompts": read_prompts(prompts) if prompts else (),
        "captions": read_prompts(captions) if captions else (),
        "steps": steps,
        "device": device,
    }
    with console.stdout_kept():
        result = run(FuseConfig(**config), out)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: FuseResult) -> None:
    """What was written, and the layers that kept least."""
    print(f"{result.out}  ({result.method} of {len(result.energy)} layers)")
    for remark in result.remarks:
        print(f"remark      {remark}")
    if result.exact:
        print("exact       all of the fusion is kept")
        return
    print(f"\n{'energy kept':>11}  {'rank':>4}  layer")
    for path, share in sorted(result.energy.items(), key=lambda it: it[1])[: console.LAYERS_SHOWN]:
        print(f"{share:11.2%}  {result.ranks[path]:4}  {path}")
    if len(result.energy) > console.LAYERS_SHOWN:
        print(f"... and {len(result.energy) - console.LAYERS_SHOWN} more")
