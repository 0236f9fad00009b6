"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

from typer import Option

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]
