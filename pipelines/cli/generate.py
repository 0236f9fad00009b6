"""`dreamtune generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.options import Device, Guidance, Json, Precision, Size, Steps

if TYPE_CHECKING:
    from dreamtune.pipelines.generate.run import GenerateResult

_SAMPLERS = "auto, ddim, ddpm, pndm, euler, euler-a, heun, dpm++2m, dpm++2m-karras, dpm++2m-sde, deis or unipc"


def generate(
    out: Annotated[Path, Option(help="Folder for the pictures, numbered after those that are there.")],
    prompt: Annotated[list[str] | None, Option(help="What to draw; may be given several times.")] = None,
    prompts: Annotated[Path | None, Option(metavar="FILE", help="More of them, one per line.")] = None,
    adapter: Annotated[
        list[str] | None,
        Option(
            metavar="FILE[:STRENGTH][@START-STOP]",
            help="Adapter file, and in which part of the steps it acts (0.0-1.0); several add up.",
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        Option(
            metavar="FILE[:STRENGTH][+FILE...]@PLACE=PROMPT",
            help="What is to be in a part of the picture, by its own adapters. PLACE is x0,y0,x1,y1 in shares of the "
            "picture, or a mask, a picture that is white there.",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        Option(
            help="routed (in one pass), collage (each subject drawn alone and set into a draft), blend (regions "
            "apart), switch or composite (adapters apart)."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        Option(help="auto: find a place for each adapter that the prompt names, in a draft by the base (none)."),
    ] = None,
    softness: Annotated[float | None, Option(help="Width of regions' edges as a share of the picture (0.05).")] = None,
    base: Annotated[
        str | None, Option(help="Base model (the one that the adapters were trained on, or pocket).")
    ] = None,
    n: Annotated[int | None, Option("--n", help="Pictures per prompt (4).")] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Annotated[str | None, Option(help=f"Sampler: {_SAMPLERS}.")] = None,
    negative: Annotated[str | None, Option(help="What to lead away from.")] = None,
    prompt_weights: Annotated[
        bool | None,
        Option("--prompt-weights/--no-prompt-weights", help="Let (word:1.3) in prompts weigh a word (off)."),
    ] = None,
    init: Annotated[Path | None, Option(metavar="PICTURE", help="Picture to start from.")] = None,
    denoise: Annotated[
        float | None, Option(help="How much of it, or of a collage, to draw anew, up to 1 (0.6, 0.15).")
    ] = None,
    grid: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE,...",
            help="Compare strength, seed, guidance, steps, scheduler or denoise on a sheet; at most two of them.",
        ),
    ] = None,
    again: Annotated[
        Path | None,
        Option("--from", metavar="PICTURE", help="Draw this picture of dreamtune again; other options change it."),
    ] = None,
    size: Size = None,
    seed: Annotated[int | None, Option(help="Seed of the first picture; the next has the next (0).")] = None,
    any_base: Annotated[bool, Option("--any-base", help="Allow another base than the adapters'.")] = False,
    device: Device = "auto",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """Draw pictures with a base and any number of adapters."""
    from dreamtune.errors import ConfigError
    from dreamtune.pipelines.generate.config import read_prompts
    from dreamtune.pipelines.generate.metadata import again as settings_of
    from dreamtune.pipelines.generate.run import GenerateConfig
    from dreamtune.pipelines.generate.run import generate as run

    given: dict[str, Any] = {
        "prompts": [*(prompt or []), *(read_prompts(prompts) if prompts else [])] or None,
        "adapters": adapter,
        "regions": region,
        "mode": mode,
        "layout": layout,
        "softness": softness,
        "base": base,
        "n": n,
        "steps": steps,
        "guidance": guidance,
        "scheduler": scheduler,
        "negative_prompt": negative,
        "prompt_weights": prompt_weights,
        "init": init,
        "denoise": denoise,
        "grid": grid,
        "size": size,
        "seed": seed,
        "any_base": any_base or None,
        "device": device,
        "precision": precision,
    }
    values = {name: value for name, value in given.items() if value is not None}
    if not again and "prompts" not in values:
        raise ConfigError("there is nothing to draw: give --prompt, --prompts FILE, or --from PICTURE")
    with console.stdout_kept():
        result = run(settings_of(again, **values) if again else GenerateConfig(**values), out)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: GenerateResult) -> None:
    """The files, one a line, and the sheet of a grid last."""
    for path in [*result.files, *([result.sheet] if result.sheet else [])]:
        console.say(path, longest=console.PATH)
