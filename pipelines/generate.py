"""From prompts and adapter files to pictures that say how they were made."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from dreamtune.errors import GenerationError
from dreamtune.pipelines.adapter_use import AdapterUse, base_name
from dreamtune.pipelines.files import check_place, write_png
from dreamtune.pipelines.progress import OnProgress, Printer, Progress
from dreamtune.pipelines.provenance import provenance
from dreamtune.pipelines.regions import RegionUse, make_regions
from dreamtune.training.recipe import Recipe

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dreamtune.models import Base

SAMPLING = {"pocket": (20, 2.5), "sd1": (25, 5.0), "sd2": (25, 5.0), "sdxl": (25, 5.0)}
"""Steps and guidance by the base's family, where they are not set."""
_NUMBERED = re.compile(r"(\d{4,})\.png$")


class DrawingConfig(Recipe):
    """How to draw with a base, whatever for."""

    base: str = "auto"
    """Base model, as in training; auto is the one that the adapters were trained on, or pocket without any."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Denoising steps; if not set, what suits the base."""
    guidance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Classifier-free guidance, 1 for none; if not set, what suits the base."""
    size: int | None = Field(default=None, ge=8, le=8192)
    """Side of the square pictures in pixels; the base's own if not set."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Picture i of the call (0, 1, ...) starts from noise of the seed `seed + i`, whatever is drawn beside it."""
    any_base: bool = False
    """Put adapters on a base with other weights than the one they were trained on."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the accelerator if there is one."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Of the base's weights and the arithmetic; if not set, bf16 for SDXL, which then takes half the memory, else
    fp32."""

    @field_validator("size")
    @classmethod
    def _whole_latents(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(f"size = {value} must be a multiple of 8; try {round(value / 8) * 8}")
        return value

    def load_base(self, adapters: Sequence[AdapterUse]) -> Base:
        """The base to draw with, for these adapters. Raises ConfigError and BaseModelError."""
        from dreamtune.models import family_of, load_base

        name = base_name(adapters) if self.base == "auto" else self.base
        precision = self.precision or ("bf16" if family_of(name) == "sdxl" else "fp32")
        return load_base(name, device=self.device, precision=precision)

    def sampling(self, base: Base) -> tuple[int, float, int]:
        """Steps, guidance and size of pictures by `base`."""
        steps, guidance = SAMPLING[base.family]
        return (
            steps if self.steps is None else self.steps,
            guidance if self.guidance is None else self.guidance,
            self.size or base.resolution,
        )


class GenerateConfig(DrawingConfig):
    """What to draw."""

    prompts: tuple[str, ...] = Field(min_length=1)
    """Prompts, each drawn `n` times."""
    adapters: tuple[str, ...] = ()
    """Adapter files as FILE or FILE:STRENGTH; the changes of several add up."""
    regions: tuple[str, ...] = ()
    """FILE[:STRENGTH]@x0,y0,x1,y1=PROMPT: what is to be in a box of the picture, by an adapter of its own."""
    n: int = Field(default=4, ge=1)
    """Pictures per prompt."""
    negative_prompt: str = ""
    """What guidance leads away from."""


@dataclass(frozen=True)
class GenerateResult:
    """What was drawn."""

    files: tuple[Path, ...]
    seeds: tuple[int, ...]
    """Seed of each file."""
    base: str
    steps: int
    guidance: float
    remarks: tuple[str, ...]
    seconds: float
    """Loading included."""
    seconds_drawing: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "files": [str(path) for path in self.files],
            "seeds": list(self.seeds),
            "base": self.base,
            "steps": self.steps,
            "guidance": self.guidance,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
            "seconds_drawing": round(self.seconds_drawing, 3),
        }


def generate(config: GenerateConfig, out: str | Path, on_progress: OnProgress | None = None) -> GenerateResult:
    """Draw pictures into the folder `out` as 0000.png, 0001.png, ...: after the highest number that is there already.

    Each says in its text chunks how it was made: "parameters" in the form that other tools show, "dreamtune" as JSON.
    Nothing is written before settings, adapters and base have been checked. Progress goes to `on_progress`, else to
    stderr.

    Raises ConfigError, AdapterFileError, BaseModelError and IncompatibleModelError for bad input, GenerationError
    when a picture comes out as NaN, memory runs out or `out` cannot be written.
    """
    if on_progress is None:
        with Printer() as printer:
            return generate(config, out, printer)
    began = time.monotonic()
    folder = Path(out).expanduser()
    check_place(folder)
    adapters = [AdapterUse.load(text) for text in config.adapters]
    regions = [RegionUse.load(text) for text in config.regions]
    every = [*adapters, *(region.use for region in regions)]
    remarks = [*_check_triggers(config, adapters), *(it for adapter in every for it in adapter.remarks)]
    base = config.load_base(every)
    made = make_regions(regions, base, config.any_base)
    plan = _Plan(config, adapters, regions, base, *config.sampling(base))
    for remark in remarks:
        on_progress(Progress("remark", message=remark))
    started = time.monotonic()
    with ExitStack() as stack:
        for adapter in adapters:
            stack.enter_context(adapter.on(base, config.any_base))
        if made:
            from dreamtune.fusion.regions import routed

            stack.enter_context(routed(base.unet, made, guided=plan.guidance > 1))
        files, more = _draw(plan, folder, on_progress)
    finished = time.monotonic()
    return GenerateResult(
        files=tuple(files),
        seeds=tuple(config.seed + index for index in range(len(files))),
        base=base.id,
        steps=plan.steps,
        guidance=plan.guidance,
        remarks=(*remarks, *more),
        seconds=finished - began,
        seconds_drawing=finished - started,
    )


@dataclass(frozen=True)
class _Plan:
    """Complete settings and what they name."""

    config: GenerateConfig
    adapters: list[AdapterUse]
    regions: list[RegionUse]
    base: Base
    steps: int
    guidance: float
    size: int

    def provenance(self, prompt: str, seed: int) -> dict[str, str]:
        """Text chunks of the picture of `prompt` and `seed`."""
        return provenance(
            {
                "prompt": prompt,
                "negative_prompt": self.config.negative_prompt,
                "seed": seed,
                "steps": self.steps,
                "guidance": self.guidance,
                "size": self.size,
                "sampler": type(self.base.scheduler).__name__.removesuffix("Scheduler"),
                "base": self.base.id,
                "adapters": [adapter.to_dict() for adapter in self.adapters],
                **({"regions": [region.to_dict() for region in self.regions]} if self.regions else {}),
            }
        )


def _check_triggers(config: GenerateConfig, adapters: list[AdapterUse]) -> list[str]:
    """A remark on each adapter whose trigger no prompt holds: its subject would not appear."""
    return [
        f"no prompt holds {adapter.file.trigger!r}, the word for the subject of {adapter.path.name}: "
        f"write for example 'a {adapter.file.trigger} {adapter.file.class_word}'"
        for adapter in adapters
        if adapter.file.trigger and not any(adapter.file.trigger in prompt for prompt in config.prompts)
    ]


def _draw(plan: _Plan, folder: Path, tell: OnProgress) -> tuple[list[Path], list[str]]:
    """Draw and save all pictures; the files, and remarks on them."""
    import torch

    config, files, remarks = plan.config, list[Path](), list[str]()
    prompts = [prompt for prompt in config.prompts for _ in range(config.n)]
    number = _next_number(folder)
    batch = plan.base.batch_for(plan.size)
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [config.seed + start + index for index in range(len(part))]
        try:
            latents = plan.base.draw(
                part,
                seeds,
                size=plan.size,
                steps=plan.steps,
                guidance=plan.guidance,
                negative_prompt=config.negative_prompt,
            )
            pictures = _decode(plan, latents, seeds)
        except torch.OutOfMemoryError:
            raise GenerationError(f"the device's memory is not enough for {plan.size} pixels: lower size") from None
        for prompt, seed, picture in zip(part, seeds, pictures, strict=True):
            path = folder / f"{number + len(files):04d}.png"
            try:
                write_png(path, picture, plan.provenance(prompt, seed))
            except OSError as error:
                raise GenerationError(f"cannot write {path}: {error.strerror or error}") from None
            files.append(path)
            if len(picture.getcolors(1) or ()) == 1:
                remarks.append(f"{path.name} is of one colour: lower the strength of the adapters, or the guidance")
                tell(Progress("remark", message=remarks[-1]))
        tell(Progress("draw", len(files), len(prompts)))
    return files, remarks


def _decode(plan: _Plan, latents: Tensor, seeds: list[int]) -> list[Image.Image]:
    for seed, latent in zip(seeds, latents, strict=True):
        if not latent.isfinite().all():
            what = "the strength of the adapters" if plan.adapters else "the guidance"
            raise GenerationError(f"the picture of seed {seed} came out as NaN: lower {what}, or check the base")
    return plan.base.to_pictures(latents)


def _next_number(folder: Path) -> int:
    numbers = [int(match[1]) for path in folder.glob("*.png") if (match := _NUMBERED.match(path.name))]
    return max(numbers, default=-1) + 1
