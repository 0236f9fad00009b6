"""Regions in passes of their own, whose predicted noise is blended by the masks: the most that isolation can give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dreamtune.adapters.delta import Delta

from .passes import Run, in_passes
from .places import Places
from .regions import Region, Routing


@contextmanager
def blended(unet: nn.Module, regions: Sequence[Region], *, guided: bool) -> Iterator[Blending]:
    """Within the block, `unet` predicts Σ Mᵢ ⊙ eᵢ: each region and the context by a pass of the whole picture.

    In pass i the adapters of region i act everywhere, on its prompt alone, so that nothing of them can reach another
    region but through the latents (the noise blending of MultiDiffusion, Bar-Tal et al., arXiv 2302.08113, with an
    adapter for each). One pass per region, and one more where regions leave something to the context. guided and what
    is raised: as for routed.
    """
    blending = Blending(unet, regions, guided)
    with in_passes(unet, blending.predict):
        yield blending


class Blending:
    """The passes of a UNet's regions."""

    def __init__(self, unet: nn.Module, regions: Sequence[Region], guided: bool) -> None:
        """See :func:`blended`."""
        self._places = Places([region.mask for region in regions])
        self._regions, self._guided = regions, guided
        everywhere = [replace(region, mask=torch.ones_like(region.mask)) for region in regions]
        self._routings = [Routing(unet, [region], guided=guided) for region in everywhere]

    def change(self, deltas: Sequence[Mapping[str, Delta]]) -> None:
        """See Routing.change."""
        for routing, own in zip(self._routings, deltas, strict=True):
            routing.change([own])

    def forget(self) -> None:
        """See Routing.forget."""
        for routing in self._routings:
            routing.forget()

    def predict(self, run: Run, sample: Tensor, given: dict[str, Any]) -> Tensor:
        """The blended prediction (n, c, h, w) for the latents `sample`."""
        every = self._places.at(sample.shape[-2], sample.shape[-1]).to(sample)
        blend = torch.zeros_like(sample)
        for share, region, routing in zip(every, self._regions, self._routings, strict=False):
            if share.any():
                routing.begin(sample)
                with routing.installed():
                    blend += share * run(**self._told(region, given))
        return blend + every[-1] * run() if every[-1].any() else blend

    def _told(self, region: Region, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments by which SDXL is told of the region's prompt as a whole."""
        added = given.get("added_cond_kwargs")
        if region.pooled is None or not added:
            return {}
        pooled = added["text_embeds"].clone()  # (n, dim), first of what guidance leads away from
        pooled[len(pooled) // 2 if self._guided else 0 :] = region.pooled.to(pooled)
        return {"added_cond_kwargs": {**added, "text_embeds": pooled}}
