"""`dreamtune generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dreamtune.errors import ConfigError
from dreamtune.names import AUTO_SAMPLER, SAMPLERS
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json, options_of
from dreamtune.pipelines.generate.config import GenerateConfig, read_prompts

if TYPE_CHECKING:
    from dreamtune.pipelines.generate.run import GenerateResult

_FLAGS = {
    "prompts": "--prompt",
    "adapters": "--adapter",
    "regions": "--region",
    "negative_prompt": "--negative --negative-prompt",
}
_METAVARS = {
    "adapters": "FILE[:STRENGTH][@START-STOP]",
    "regions": "FILE[:STRENGTH][+FILE...]@PLACE=PROMPT",
    "grid": "NAME=VALUE,...",
}


@options_of(GenerateConfig, flags=_FLAGS, metavars=_METAVARS, choices={"scheduler": (AUTO_SAMPLER, *SAMPLERS)})
def generate(
    given: dict[str, Any],
    out: Annotated[Path, Option(help="Output folder. Images are numbered after those already there.")],
    prompt_file: Annotated[
        Path | None, Option("--prompts", metavar="FILE", help="Text file with more prompts, one per line.")
    ] = None,
    again: Annotated[
        Path | None,
        Option("--from", metavar="IMAGE", help="Redo this image made by dreamtune; other options override its own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate images with a base model and any number of adapters."""
    from dreamtune.pipelines.generate.metadata import again as settings_of
    from dreamtune.pipelines.generate.run import generate as run

    if prompt_file:
        given["prompts"] = [*given.get("prompts", ()), *read_prompts(prompt_file)]
    if not again and "prompts" not in given:
        raise ConfigError("there is no prompt: use --prompt, --prompts FILE, or --from IMAGE")
    with console.stdout_kept():
        result = run(settings_of(again, **given) if again else GenerateConfig(**given), out)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: GenerateResult) -> None:
    """The files, one a line, and the sheet of a grid last."""
    for path in [*result.files, *([result.sheet] if result.sheet else [])]:
        console.say(path, longest=console.PATH)
