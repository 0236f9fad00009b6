"""Options that several commands share and that are in no config."""

from __future__ import annotations

from typing import Annotated

from typer import Option

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Queue = Annotated[bool, Option("--queue", help="Check it, then add it to the queue that `dreamtune worker` runs.")]
