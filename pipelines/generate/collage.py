"""Start images for mode = collage: each region's subject, generated alone, in a draft of the whole scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image
from torch import Tensor

from dreamtune.data.auto_masks import DRAWN_SEEDS, drawn_mask, failure
from dreamtune.data.images import to_tensor
from dreamtune.data.subject_map import change_map
from dreamtune.errors import ConfigError
from dreamtune.generation.collage import CutOut, collage, emptied
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.generate.image_spec import ImageSpec, SamplingParams
from dreamtune.pipelines.generate.plan import Plan
from dreamtune.pipelines.generate.regions import RegionUse
from dreamtune.pipelines.generate.stage import staged
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.words import one_form, places


def check_classes(regions: Sequence[RegionUse]) -> None:
    """Raise ConfigError for a region without a known class: nothing could be cut out."""
    for number, region in enumerate(regions, 1):
        if _class_of(region) is None:
            names = " and ".join(use.path.name for use in region.uses) or "any adapter"
            raise ConfigError(
                f"mode = collage must cut out the subject of region {number}, but its class is not recorded in "
                f"{names}: use mode = routed"
            )


def collages(plan: Plan, on_progress: OnProgress) -> list[Tensor]:
    """Scaled latents (1, c, h, w) that each image of `plan` starts from.

    An image needs a draft and an image of each subject, from its own noise; images that differ only in `denoise`
    share them. Raises ConfigError where a subject cannot be cut out, GenerationError as generate does.
    """
    kinds = [_kind(spec) for spec in plan.specs]
    made: dict[ImageSpec, Tensor] = {}
    for kind in dict.fromkeys(kinds):
        made[kind] = _start(plan.of(kind), kind)
        on_progress(Progress("collage", len(made), len(set(kinds))))
    return [made[kind] for kind in kinds]


def _kind(spec: ImageSpec) -> ImageSpec:
    return replace(spec, sampling=replace(spec.sampling, denoise=1.0), row="", column="")


def _start(plan: Plan, spec: ImageSpec) -> Tensor:
    draft = _drawn(plan, plan.adapters, spec.prompt, spec)
    cuts, shown = [], []
    for number, region in enumerate(plan.regions, 1):
        alone = _drawn(plan, [*plan.adapters, *region.uses], region.prompt, spec)
        cls = _class_of(region) or ""
        mask, problem = _mask(plan, alone, cls, _taught(plan, region, alone))
        if problem:
            raise ConfigError(
                f"the {cls} of region {number}, generated alone from seed {spec.seed}, {problem}: use another seed, or "
                "mode = routed, which needs no mask"
            )
        cuts.append((CutOut.of(alone, mask), region.box))
        mask, problem = _mask(plan, draft, cls)
        shown += [] if problem else [mask]
    made = collage(emptied(draft, shown), cuts)
    return plan.base.encode_images(to_tensor(made)[None])


def _taught(plan: Plan, region: RegionUse, picture: Image.Image) -> Tensor:
    """Where the adapters of a region change the image of its subject."""
    plain = one_form(region.prompt)
    for token in (token for use in region.uses for token in use.file.tokens):
        for start, end in reversed(places(plain, [one_form(token)])):
            plain = plain[:start] + plain[end:].lstrip()
    on = partial(staged, plan.config, region.uses, (), plan.base, guided=False)
    return change_map(plan.base, to_tensor(picture), (region.prompt, plain), on, DRAWN_SEEDS)


def _mask(plan: Plan, picture: Image.Image, cls: str, taught: Tensor | None = None) -> tuple[np.ndarray, str]:
    """Where the base sees the class in an image it generated, and what is wrong with that mask, or nothing."""
    mask = drawn_mask(plan.base, picture, cls, taught)
    return mask, failure(float(mask.mean()), cls)


def _drawn(plan: Plan, adapters: Sequence[AdapterRef], prompt: str, spec: ImageSpec) -> Image.Image:
    """The image that those adapters generate of a prompt, with the noise and sampling of `spec`."""
    sampling: SamplingParams = spec.sampling
    with staged(plan.config, adapters, (), plan.base, guided=sampling.guidance > 1) as stage:
        latents = plan.base.draw(
            [prompt],
            [spec.seed],
            size=plan.size,
            steps=sampling.steps,
            guidance=sampling.guidance,
            negative_prompt=plan.config.negative_prompt,
            scheduler=sampling.scheduler,
            prompt_weights=plan.config.prompt_weights,
            on_step=stage.on_step,
        )
    return plan.decoded([spec], latents)[0]


def _class_of(region: RegionUse) -> str | None:
    """The class of its subject, from the first adapter that records one."""
    return next((cls for use in region.uses for token, cls in use.file.subjects if token and cls), None)
