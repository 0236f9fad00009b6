"""From prompts and adapter files to images with generation metadata."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dreamtune import __version__
from dreamtune.errors import GenerationError
from dreamtune.models.device import enough_memory
from dreamtune.pipelines.adapter_ref import AdapterRef, noise_remarks
from dreamtune.pipelines.generate.collage import check_classes, collages
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.generate.grid import axes_of, grid_sheet, image_specs
from dreamtune.pipelines.generate.image_spec import SamplingParams
from dreamtune.pipelines.generate.layout import class_prompts
from dreamtune.pipelines.generate.metadata import Start
from dreamtune.pipelines.generate.plan import Plan
from dreamtune.pipelines.generate.prompt_remarks import prompt_remarks, region_remarks
from dreamtune.pipelines.generate.regions import RegionUse
from dreamtune.pipelines.generate.stage import staged
from dreamtune.pipelines.output import check_place, write_png
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress

_NUMBERED = re.compile(r"(\d{4,})\.png$")


@dataclass(frozen=True)
class GenerateResult:
    """What was generated."""

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
    sheet: Path | None = None
    """Of a grid."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "files": [str(path) for path in self.files],
            "sheet": self.sheet and str(self.sheet),
            "seeds": list(self.seeds),
            "base": self.base,
            "steps": self.steps,
            "guidance": self.guidance,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
            "seconds_drawing": round(self.seconds_drawing, 3),
        }


@shows_progress
def generate(config: GenerateConfig, out: str | Path, on_progress: OnProgress = on_stderr) -> GenerateResult:
    """Generate images into the folder `out` as 0000.png, 0001.png, ..., after the highest number that exists.

    Each has generation metadata in its text chunks: "parameters" in the form that other tools show, "dreamtune" as
    JSON, from which metadata.again restores the settings. A grid also gets a sheet, 0000-grid.png for one that begins
    with 0000.png. Nothing is written until settings, adapters and base have been checked. Progress goes to
    `on_progress`, else to stderr.

    Raises ConfigError, AdapterFileError, BaseModelError and IncompatibleModelError for bad input, GenerationError
    when an image comes out as NaN, memory runs out or `out` cannot be written.
    """
    began = time.monotonic()
    folder = Path(out).expanduser()
    check_place(folder)
    axes = axes_of(config)
    adapters = [AdapterRef.load(text, windows=True) for text in config.adapters]
    regions = [RegionUse.load(text) for text in config.regions]
    masks = [region.mask(config.softness) for region in regions]
    if config.mode == "collage":
        check_classes(regions)
    read = class_prompts(config, adapters) if config.layout == "auto" else {}
    start = config.init and Start.load(config.init)
    every = [*adapters, *(use for region in regions for use in region.uses)]
    base = config.load_base(every)
    steps, guidance, size = config.sampling(base)
    plan = Plan(config, adapters, regions, base, size, start, image_specs(config, axes, base))
    plan.check(every)
    remarks = [
        *prompt_remarks(config, adapters, regions, base),
        *region_remarks(regions, masks, size),
        *noise_remarks(base, every),
        *(it for adapter in every for it in adapter.remarks),
        *(start.remarks(size) if start else []),
    ]
    for remark in dict.fromkeys(remarks):
        on_progress(Progress("remark", message=remark))
    started = time.monotonic()
    if config.layout == "auto":
        plan = plan.laid_out(read, on_progress)
        layouts = [it.layout.remark for it in plan.specs if it.layout is not None and it.layout.remark]
        for remark in (own := list(dict.fromkeys(layouts))):
            on_progress(Progress("remark", message=remark))
        remarks += own
    if config.mode == "collage":
        with enough_memory(plan.too_little):
            plan = replace(plan, starts=collages(plan, on_progress))
    files, more, sheet = _draw(plan, folder, on_progress)
    finished = time.monotonic()
    return GenerateResult(
        files=tuple(files),
        seeds=tuple(spec.seed for spec in plan.specs),
        base=base.id,
        steps=steps,
        guidance=guidance,
        remarks=(*dict.fromkeys(remarks), *more),
        seconds=finished - began,
        seconds_drawing=finished - started,
        sheet=sheet,
    )


def _draw(plan: Plan, folder: Path, on_progress: OnProgress) -> tuple[list[Path], list[str], Path | None]:
    """Generate and save all images; return the files, remarks on them, and the sheet of a grid."""
    number, remarks, done = _next_number(folder), list[str](), 0
    files = [folder / f"{number + index:04d}.png" for index in range(len(plan.specs))]
    pictures: dict[int, Image.Image] = {}
    for part in _batches(plan):
        for index, picture, texts in part:
            files[index] = _write(files[index], picture, texts)
            if plan.config.grid:
                pictures[index] = picture
            if len(picture.getcolors(1) or ()) == 1:
                remarks.append(f"{files[index].name} is a single color: lower the adapter strengths, or guidance")
                on_progress(Progress("remark", message=remarks[-1]))
            done += 1
        on_progress(Progress("draw", done, len(files)))
    if not plan.config.grid:
        return files, remarks, None
    sheet = folder / f"{number:04d}-grid.png"
    about = {"grid": list(plan.config.grid), "pictures": [path.name for path in files], "version": __version__}
    image = grid_sheet(plan.specs, [pictures[index] for index in range(len(files))])
    return files, remarks, _write(sheet, image, {"dreamtune": json.dumps(about)})


def _batches(plan: Plan) -> Iterator[list[tuple[int, Image.Image, dict[str, str]]]]:
    """Batches of images, each with its index among the specs and its text chunks."""
    kinds = [(spec.sampling, spec.layout) for spec in plan.specs]
    order = list(dict.fromkeys(kinds))
    indices = sorted(range(len(plan.specs)), key=lambda index: order.index(kinds[index]))
    size = plan.base.batch_for(plan.size)
    for (sampling, _), group in groupby(indices, key=lambda index: kinds[index]):
        of_sampling = list(group)
        own = plan.of(plan.specs[of_sampling[0]])
        with staged(plan.config, own.adapters, own.regions, plan.base, guided=sampling.guidance > 1) as stage:
            for start in range(0, len(of_sampling), size):
                part = of_sampling[start : start + size]
                specs = [plan.specs[index] for index in part]
                with enough_memory(plan.too_little):
                    found = plan.decoded(specs, _latents(plan, sampling, part, stage.on_step))
                yield [(i, it, own.provenance(spec)) for i, it, spec in zip(part, found, specs, strict=True)]


def _latents(plan: Plan, sampling: SamplingParams, part: Sequence[int], on_step: Any) -> Tensor:
    specs = [plan.specs[index] for index in part]
    return plan.base.draw(
        [spec.prompt for spec in specs],
        [spec.seed for spec in specs],
        size=plan.size,
        steps=sampling.steps,
        guidance=sampling.guidance,
        negative_prompt=plan.config.negative_prompt,
        scheduler=sampling.scheduler,
        init=plan.init(part),
        denoise=sampling.denoise,
        prompt_weights=plan.config.prompt_weights,
        on_step=on_step,
    )


def _write(path: Path, picture: Image.Image, texts: dict[str, str]) -> Path:
    """Write an image, under the next number if another process has taken this one."""
    while True:
        try:
            write_png(path, picture, texts, replace=False)
            return path
        except FileExistsError:
            number, dash, rest = path.stem.partition("-")
            path = path.with_name(f"{max(int(number) + 1, _next_number(path.parent)):04d}{dash}{rest}.png")
        except OSError as error:
            raise GenerationError(
                f"cannot write {path}: {error.strerror or error}; free some disk space or choose another folder"
            ) from None


def _next_number(folder: Path) -> int:
    numbers = [int(match[1]) for path in folder.glob("*.png") if (match := _NUMBERED.match(path.name))]
    return max(numbers, default=-1) + 1
