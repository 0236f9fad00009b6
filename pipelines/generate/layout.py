"""Automatic layouts: each adapter gets a region where a draft by the base puts its subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dreamtune.errors import ConfigError, GenerationError
from dreamtune.generation.locate import COLORS, boxes, located, missing, strips
from dreamtune.models import Base
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.generate.image_spec import ImageSpec, Layout
from dreamtune.pipelines.generate.layout_prompts import ClassPrompt, class_prompt
from dreamtune.pipelines.generate.regions import RegionUse
from dreamtune.pipelines.progress import OnProgress, Progress


def class_prompts(config: GenerateConfig, adapters: Sequence[AdapterRef]) -> dict[str, ClassPrompt]:
    """Each prompt of a call with an automatic layout, read. Raises ConfigError as class_prompt does."""
    return {prompt: class_prompt(prompt, adapters) for prompt in config.prompts}


def everywhere(adapters: Sequence[AdapterRef]) -> list[AdapterRef]:
    """Adapters without a token, such as styles: they act on the whole image, and on its draft."""
    return [use for use in adapters if not use.file.tokens]


def laid_out(
    config: GenerateConfig,
    specs: Sequence[ImageSpec],
    read: Mapping[str, ClassPrompt],
    base: Base,
    size: int,
    on_progress: OnProgress,
) -> list[ImageSpec]:
    """The same images, each with its layout and the class prompt, from drafts by `base` as it is.

    An image gets one draft for each of its samplers and guidance values, from its own noise. Raises ConfigError if a
    draft does not show every subject in a separate place.
    """
    drafts = dict.fromkeys((it.prompt, it.seed, it.sampling.guidance, it.sampling.scheduler) for it in specs)
    found: dict[tuple[str, int, float, str], Layout] = {}
    for key in drafts:
        found[key] = _layout(config, read[key[0]], key, base, size)
        on_progress(Progress("layout", len(found), len(drafts)))
    return [
        replace(
            it,
            prompt=read[it.prompt].text,
            layout=found[it.prompt, it.seed, it.sampling.guidance, it.sampling.scheduler],
        )
        for it in specs
    ]


def _layout(
    config: GenerateConfig, read: ClassPrompt, key: tuple[str, int, float, str], base: Base, size: int
) -> Layout:
    prompt, seed, guidance, scheduler = key
    if config.mode == "collage" and (order := read.from_the_left()):
        return Layout(prompt, _side_by_side(read, order))
    maps = located(
        base,
        read.text,
        [[read.recolored(color, subject) for color in COLORS] for subject in range(len(read.subjects))],
        seed,
        size=size,
        guidance=guidance,
        scheduler=scheduler,
        negative_prompt=config.negative_prompt,
        prompt_weights=config.prompt_weights,
    )
    if not maps.isfinite().all():
        raise GenerationError(f"the draft of seed {seed} came out as NaN: lower guidance, or check the base")
    lost = missing(maps)
    if lost is not None:
        subject = read.subjects[lost]
        problem = f"the draft of seed {seed} shows no separate place for '{subject.token} {subject.cls}' in {prompt!r}"
        if config.mode == "collage":  # which needs a place, and not that the draft shows anybody there
            return Layout(
                prompt,
                _side_by_side(read, range(len(read.subjects))),
                f"{problem}: all subjects are placed side by side",
            )
        raise ConfigError(
            f"{problem}: use another seed, say in the prompt where each is ('on the left'), set boxes with --region, "
            "or use mode = collage"
        )
    places, sides = strips(boxes(maps))
    if sides and config.mode == "collage":  # in which nothing of the draft's subjects is left, nor how large they were
        return Layout(prompt, _side_by_side(read, [sorted(places).index(place) for place in places]))
    told = [read.beside(number, sides) if sides else it.prompt for number, it in enumerate(read.subjects)]
    regions = (RegionUse((it.use,), place, text) for it, place, text in zip(read.subjects, places, told, strict=True))
    return Layout(prompt, tuple(regions))


def _side_by_side(read: ClassPrompt, order: Sequence[int]) -> tuple[RegionUse, ...]:
    """Strips of one width, each subject alone in its own. order: which one each of them is from the left."""
    count = len(order)
    return tuple(
        RegionUse((it.use,), (round(at / count, 4), 0.0, round((at + 1) / count, 4), 1.0), it.prompt)
        for it, at in zip(read.subjects, order, strict=True)
    )
