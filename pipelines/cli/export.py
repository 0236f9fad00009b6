"""`dreamtune export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json

if TYPE_CHECKING:
    from dreamtune.pipelines.export.run import ExportResult


def export(
    file: Annotated[str, Argument(metavar="FILE", help="Adapter file of any supported tool.")],
    form: Annotated[
        str, Option("--format", help="lora, peft, kohya, diffusers, checkpoint or embedding; see docs/files.md.")
    ],
    out: Annotated[Path, Option(help="File or folder to write; it must not exist.")],
    dtype: Annotated[str | None, Option(help="fp32, fp16 or bf16. (fp32; for a checkpoint the base's own)")] = None,
    rank: Annotated[int | None, Option(help="Convert to plain LoRA of at most this rank (lora, peft, kohya).")] = None,
    base: Annotated[str | None, Option(help="Base model. (for diffusers and checkpoint: the adapter's own)")] = None,
    any_base: Annotated[
        bool, Option("--any-base", help="Allow a base whose weights differ from the one the adapter was trained on.")
    ] = False,
    bundle: Annotated[
        bool, Option("--bundle", help="Bundle trained token embeddings into a kohya file, for A1111 and Forge.")
    ] = False,
    token: Annotated[
        str | None, Option(help="Token whose embeddings to write, if there are several (embedding).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an adapter for other tools, alone or merged into its base, and report how exact it is."""
    from dreamtune.pipelines.export.run import export as run

    with console.stdout_kept():
        result = run(file, out, form, dtype=dtype, rank=rank, base=base, any_base=any_base, bundle=bundle, token=token)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: ExportResult) -> None:
    """What was written, how exact it is, and the layers that kept least."""
    console.say(f"{result.out}  ({result.format}: {result.method} as {result.written_as}, {result.dtype})")
    for remark in result.remarks:
        console.say(f"remark      {remark}")
    if not result.layers:
        return
    worst = result.worst
    exact = "exact" if result.exact else "not exact"
    console.say(f"{exact:11} largest error of a change: {worst['max_abs_error']:.2g}")
    if result.exact:
        return
    console.say(f"\n{'energy kept':>11}  {'error/|dW|':>10}  layer")
    for layer in sorted(result.layers, key=lambda layer: layer.energy)[: console.LAYERS_SHOWN]:
        console.say(f"{layer.energy:11.2%}  {layer.relative:10.2g}  {layer.path}")
    if len(result.layers) > console.LAYERS_SHOWN:
        console.say(f"... and {len(result.layers) - console.LAYERS_SHOWN} more")
