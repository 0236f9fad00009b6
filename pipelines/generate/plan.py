"""What a call of generate produces, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from dreamtune.errors import ConfigError, GenerationError
from dreamtune.models import Base
from dreamtune.models.device import enough_memory
from dreamtune.models.samplers import make_sampler
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.generate.image_spec import ImageSpec
from dreamtune.pipelines.generate.layout import everywhere, laid_out
from dreamtune.pipelines.generate.layout_prompts import ClassPrompt
from dreamtune.pipelines.generate.metadata import Start, record
from dreamtune.pipelines.generate.regions import RegionUse
from dreamtune.pipelines.generate.stage import staged
from dreamtune.pipelines.progress import OnProgress


@dataclass(frozen=True)
class Plan:
    """Complete settings and what they name."""

    config: GenerateConfig
    adapters: Sequence[AdapterRef]
    regions: Sequence[RegionUse]
    base: Base
    size: int
    start: Start | None
    specs: Sequence[ImageSpec]
    starts: Sequence[Tensor] = ()
    """For mode = collage: scaled latents (1, c, h, w) of each image's collage."""

    def check(self, every: Sequence[AdapterRef]) -> None:
        """Raise ConfigError for impossible sampling settings."""
        for sampling in dict.fromkeys(spec.sampling for spec in self.specs):
            make_sampler(sampling.scheduler, self.base.scheduler)
            steps = int(sampling.steps * sampling.denoise)
            if steps < 1:
                raise ConfigError(
                    f"denoise = {sampling.denoise:g} leaves none of {sampling.steps} steps: raise one of them"
                )
            for use in every:
                use.check_window(steps)

    @property
    def too_little(self) -> GenerationError:
        """The error if memory runs out."""
        return GenerationError(f"not enough device memory for size = {self.size}: lower size")

    def scaled(self, factor: float) -> Plan:
        """The same with all strengths multiplied by `factor`."""
        if factor == 1:
            return self
        adapters, regions = ([it.scaled(factor) for it in them] for them in (self.adapters, self.regions))
        return replace(self, adapters=adapters, regions=regions)

    def laid_out(self, read: Mapping[str, ClassPrompt], on_progress: OnProgress) -> Plan:
        """The same with a layout for every image, see layout.laid_out; adapters with a token act only in regions."""
        styles = everywhere(self.adapters)
        for use in self.adapters:
            use.check(self.base, self.config.any_base)
        with enough_memory(self.too_little), staged(self.config, styles, (), self.base, guided=True):
            specs = laid_out(self.config, self.specs, read, self.base, self.size, on_progress)
        return replace(self, adapters=styles, specs=specs)

    def of(self, spec: ImageSpec) -> Plan:
        """The plan of one image: what acts on it, at its strength."""
        own = self if spec.layout is None else replace(self, regions=spec.layout.regions)
        return own.scaled(spec.sampling.strength)

    def init(self, part: Sequence[int]) -> Tensor | None:
        """Scaled latents (1 or n, c, h, w) that the images of these numbers start from."""
        if self.starts:
            return torch.cat([self.starts[index] for index in part])
        return self.start and self.start.latents(self.base, self.size)

    def decoded(self, specs: Sequence[ImageSpec], latents: Tensor) -> list[Image.Image]:
        """The images of latents (n, c, h, w), one of each of `specs`. Raises GenerationError for NaN."""
        for spec, latent in zip(specs, latents, strict=True):
            if not latent.isfinite().all():
                what = "the adapter strengths" if self.adapters else "guidance"
                raise GenerationError(f"the image of seed {spec.seed} came out as NaN: lower {what}, or check the base")
        return self.base.to_pictures(latents)

    def provenance(self, spec: ImageSpec) -> dict[str, str]:
        """Text chunks of an image."""
        return record(self.config, spec, self.base, self.size, self.adapters, self.regions, self.start)
