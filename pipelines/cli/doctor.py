"""`dreamtune doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json

if TYPE_CHECKING:
    from dreamtune.pipelines.doctor import DoctorResult


def doctor(
    online: Annotated[bool, Option("--online", help="Also check whether the model hub can be reached.")] = False,
    as_json: Json = False,
) -> None:
    """Check this installation, and say how to fix what is wrong."""
    from dreamtune.pipelines.doctor import doctor as run

    result = run(online)
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)
    if not result.healthy:
        raise typer.Exit(1)


def show(result: DoctorResult) -> None:
    """A line per check, and below it what to do."""
    for check in result.checks:
        console.say(f"{check.state:8} {check.name:16} {check.value}")
        if check.remedy:
            console.say(f"{'':25} -> {check.remedy}")
