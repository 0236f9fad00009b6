"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

from typer import Option

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Queue = Annotated[bool, Option("--queue", help="Check it and put it into the queue of jobs, for `dreamtune worker`.")]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]

# Of all that draws:
Base = Annotated[str, Option(help="Base model; auto is the one that the adapters were trained on.")]
AnyBase = Annotated[bool, Option("--any-base", help="Allow another base than the adapters'.")]
Steps = Annotated[int | None, Option(help="Denoising steps (what suits the base).")]
Guidance = Annotated[float | None, Option(help="How closely to follow the prompt (what suits the base).")]
Size = Annotated[int | None, Option(help="Side of the pictures in pixels (the base's own).")]
Seed = Annotated[int, Option(help="Seed of the first picture; the next has the next.")]
Precision = Annotated[str | None, Option(help="fp32, bf16 or fp16 (bf16 for SDXL, else fp32).")]
