"""`dreamtune trim`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json

if TYPE_CHECKING:
    from dreamtune.pipelines.export.trim import TrimResult


def trim(
    file: Annotated[str, Argument(metavar="FILE", help="Adapter file of any supported tool.")],
    out: Annotated[Path, Option(help="File to write; it must not exist.")],
    energy: Annotated[float, Option(help="Share of each layer's squared change to keep.")] = 0.95,
    base: Annotated[str | None, Option(help="Base model, needed if the change depends on its weights (DoRA).")] = None,
    as_json: Json = False,
) -> None:
    """Make an adapter smaller: LoRA of the lowest rank that keeps a share of the change in every layer."""
    from dreamtune.pipelines.export.trim import trim as run

    with console.stdout_kept():
        result = run(file, out, energy, base)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: TrimResult) -> None:
    """What was written, how much it keeps, and how many layers have which rank."""
    from dreamtune.pipelines.output import human

    before, after = human(result.bytes_before), human(result.bytes_after)
    console.say(f"{result.out}  ({before} of {result.method} to {after} of LoRA)")
    for remark in result.remarks:
        console.say(f"remark      {remark}")
    least = f"{result.least_energy:.1%} in the layer that keeps the least"
    console.say(f"kept        {result.energy:.1%} of the change, {least}")
    counts = sorted(Counter(result.ranks.values()).items())
    console.say(f"ranks       {', '.join(f'{rank} in {count} layers' for rank, count in counts)}")
