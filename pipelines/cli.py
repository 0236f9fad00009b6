"""The command `dreamtune`. Its modules are imported by the command that needs them, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from dreamtune import __version__
from dreamtune.pipelines import console

app = typer.Typer(
    help="Teach Stable Diffusion your subject from a few pictures, with small adapters.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
pocket = typer.Typer(help="The embedded base and the little world that it was trained on.")
app.add_typer(pocket, name="pocket")

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 done, 1 failed, 2 bad input, 130 stopped by the user."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # taken out here, so that it may stand anywhere
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    command = typer.main.get_command(app)
    try:
        if debug:
            code = command.main(arguments, prog_name="dreamtune", standalone_mode=False)
        else:
            with console.hushed():
                code = command.main(arguments, prog_name="dreamtune", standalone_mode=False)
    except Exception as error:
        return console.print_error(error, debug)
    if code == 130:  # Ctrl-C, which typer turns into this code
        print("Stopped.", file=sys.stderr)
    return code or 0


def _version(value: bool) -> None:
    if value:
        print(f"dreamtune {__version__}")
        raise typer.Exit


@app.callback()
def _dreamtune(
    version: Annotated[bool, Option("--version", help="Show the version.", is_eager=True, callback=_version)] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error, and all warnings.")] = False,
) -> None:
    pass


@app.command()
def train(
    images: Annotated[
        Path | None, Argument(metavar="IMAGES_DIR", help="Folder with 3 to 30 pictures of the subject.")
    ] = None,
    class_word: Annotated[str | None, Option("--class", help="What the subject is: dog, backpack, ...")] = None,
    token: Annotated[str | None, Option(help="Rare word that will mean the subject (sks).")] = None,
    base: Annotated[
        str | None, Option(help="pocket, a diffusers folder, a .safetensors checkpoint, or a hub id (pocket).")
    ] = None,
    method: Annotated[
        str | None, Option(help="lora, dora, lora-dash, spectral-a, spectral-r, loha, lokr (lora).")
    ] = None,
    rank: Annotated[int | None, Option(help="Rank of the change per layer (the method's own).")] = None,
    alpha: Annotated[float | None, Option(help="The change is scaled by alpha/rank (alpha = rank).")] = None,
    steps: Annotated[int | None, Option(help="Optimizer steps (what suits the base).")] = None,
    lr: Annotated[float | None, Option(help="Learning rate (what suits the base).")] = None,
    seed: Annotated[int | None, Option(help="The same seed gives the same adapter (0).")] = None,
    prior: Annotated[
        bool | None, Option("--prior/--no-prior", help="Keep the meaning of the class by pictures of it (on).")
    ] = None,
    strict: Annotated[
        bool | None, Option("--strict", help="Stop at a picture that cannot be used, instead of leaving it out.")
    ] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps (auto).")] = None,
    name: Annotated[str | None, Option(help="Name of the run, in the folder runs (IMAGES_DIR-METHOD).")] = None,
    out: Annotated[Path | None, Option(help="Run folder, if it shall be elsewhere.")] = None,
    config: Annotated[Path | None, Option(help="YAML recipe; options given here win over it.")] = None,
    settings: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Any setting of a recipe.")] = None,
    resume: Annotated[Path | None, Option(metavar="RUN_DIR", help="Go on with this run.")] = None,
    as_json: Json = False,
) -> None:
    """Train an adapter on a folder of pictures of one subject."""
    from dreamtune.pipelines.settings import run_folder, train_config

    options = {
        "images": images,
        "class_word": class_word,
        "token": token,
        "base": base,
        "method": method,
        "rank": rank,
        "alpha": alpha,
        "steps": steps,
        "lr": lr,
        "seed": seed,
        "prior": prior,
        "strict": strict,
        "device": device,
    }
    given = {key: value for key, value in options.items() if value is not None}
    complete = train_config(given, settings or [], recipe=config, resume=resume)
    folder = run_folder(complete, name=name, out=out, resume=resume)

    from dreamtune.pipelines.train import train as run

    with console.stdout_kept():
        result = run(complete, folder, resume=resume is not None)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.print_training(result)


@app.command()
def generate(
    prompt: Annotated[list[str], Option(help="What to draw; may be given several times.")],
    out: Annotated[Path, Option(help="Folder for the pictures, numbered after those that are there.")],
    adapter: Annotated[
        list[str] | None, Option(metavar="FILE[:STRENGTH]", help="Adapter file; several add up.")
    ] = None,
    base: Annotated[str, Option(help="Base model; auto is the one that the adapters were trained on.")] = "auto",
    n: Annotated[int, Option("--n", help="Pictures per prompt.")] = 4,
    steps: Annotated[int | None, Option(help="Denoising steps (what suits the base).")] = None,
    guidance: Annotated[float | None, Option(help="How closely to follow the prompt (what suits the base).")] = None,
    negative: Annotated[str, Option(help="What to lead away from.")] = "",
    size: Annotated[int | None, Option(help="Side of the pictures in pixels (the base's own).")] = None,
    seed: Annotated[int, Option(help="Seed of the first picture; the next has the next.")] = 0,
    any_base: Annotated[bool, Option("--any-base", help="Allow another base than the adapters'.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw pictures with a base and any number of adapters."""
    from dreamtune.pipelines.generate import GenerateConfig
    from dreamtune.pipelines.generate import generate as run

    config: dict[str, Any] = {
        "prompts": prompt,
        "adapters": adapter or [],
        "base": base,
        "n": n,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative,
        "size": size,
        "seed": seed,
        "any_base": any_base,
        "device": device,
    }
    with console.stdout_kept():
        result = run(GenerateConfig(**config), out)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.print_pictures(result)


@app.command()
def inspect(
    file: Annotated[Path, Argument(metavar="FILE", help="Adapter file, of dreamtune or another tool.")],
    base: Annotated[str | None, Option(help="Its base, to measure also changes that depend on the weights.")] = None,
    as_json: Json = False,
) -> None:
    """Show what an adapter file holds."""
    from dreamtune.pipelines.inspect import inspect as run

    with console.stdout_kept():
        result = run(file, base)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.print_inspection(result)


@app.command()
def export(
    file: Annotated[str, Argument(metavar="FILE", help="Adapter file, of dreamtune or another tool.")],
    form: Annotated[str, Option("--format", help="lora, peft, kohya, diffusers or checkpoint; see docs/files.md.")],
    out: Annotated[Path, Option(help="File or folder to write, which must not exist.")],
    dtype: Annotated[
        str | None, Option(help="fp32, fp16 or bf16 (fp32; of a checkpoint what the base's file has).")
    ] = None,
    rank: Annotated[int | None, Option(help="Rank of plain LoRA, where the change has no small exact form.")] = None,
    base: Annotated[str | None, Option(help="The adapter's base (for diffusers and checkpoint its own).")] = None,
    any_base: Annotated[bool, Option("--any-base", help="Allow another base than the adapter's.")] = False,
    as_json: Json = False,
) -> None:
    """Write an adapter for other tools, alone or merged into its base, and say how exact that is."""
    from dreamtune.pipelines.export import export as run

    with console.stdout_kept():
        result = run(file, out, form, dtype=dtype, rank=rank, base=base, any_base=any_base)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.print_export(result)


@app.command()
def doctor(
    online: Annotated[bool, Option("--online", help="Also ask whether the model hub answers.")] = False,
    as_json: Json = False,
) -> None:
    """Check this installation, and say for each fault what to do."""
    from dreamtune.pipelines.doctor import doctor as run

    result = run(online)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.print_diagnosis(result)
    if not result.healthy:
        raise typer.Exit(1)


@pocket.command("path")
def pocket_path() -> None:
    """Print the folder of the embedded base."""
    from dreamtune.pocket import path

    print(path())


@pocket.command("draw")
def pocket_draw(
    subject: Annotated[int, Option(metavar="SEED", help="Number of the subject; the same is always the same.")],
    out: Annotated[Path, Option(help="Folder for the pictures, 00.png and on.")],
    n: Annotated[int, Option("--n", help="How many.")] = 5,
    cls: Annotated[str | None, Option("--class", help="Its class (any).")] = None,
    size: Annotated[int | None, Option(help="Side in pixels (the base's own).")] = None,
) -> None:
    """Draw a subject of the pocket world, as if photographed in several places."""
    from dreamtune.pipelines.pocket import draw_pocket

    for path in draw_pocket(subject, n, out, cls, size):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
