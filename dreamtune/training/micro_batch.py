"""Samples of one shape as they go through the UNet together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.data.encode import Example

from . import losses
from .batches import MicroBatchPart
from .objective import Objective


@dataclass(frozen=True)
class NoisedBatch:
    """What the UNet is given and what it shall predict, for n samples; on the training's device."""

    noisy: Tensor
    """(n, c, h, w)"""
    goal: Tensor
    """(n, c, h, w)"""
    timesteps: Tensor
    """(n,) int64, on the CPU."""
    prompts: list[int]
    """Place of each sample's prompt in TrainingData.prompts."""
    time_ids: Tensor | None
    """(n, 6), see Example."""
    mask: Tensor | None
    """(n, h, w), see Example."""

    @classmethod
    def noised(
        cls,
        pictures: Sequence[Example],
        part: MicroBatchPart,
        objective: Objective,
        device: torch.device,
        empty: int | None = None,
    ) -> NoisedBatch:
        """The pictures that `part` names, under its noise.

        empty: place of the empty prompt, if some of them are to have it.
        """
        chosen = [pictures[row] for row in part.rows]
        x0 = torch.stack([example.latent for example in chosen]).to(device)
        noise = objective.noise(part).to(device)
        a = objective.alphas(part.timesteps)
        return cls(
            noisy=losses.add_noise(x0, noise, a),
            goal=losses.target(x0, noise, a, objective.prediction_type),
            timesteps=part.timesteps,
            prompts=_prompts(chosen, part, empty),
            time_ids=_stack([example.time_ids for example in chosen], device),
            mask=_stack_masks([example.mask for example in chosen], x0),
        )

    def __len__(self) -> int:
        return len(self.noisy)


def join(batches: Sequence[NoisedBatch]) -> list[NoisedBatch]:
    """The same samples in the same order, in one batch if all have one shape: that is one pass through the UNet."""
    if len({batch.noisy.shape[1:] for batch in batches}) > 1:
        return list(batches)
    masks = [mask for batch in batches for mask in (batch.mask if batch.mask is not None else [None] * len(batch))]
    time_ids = [batch.time_ids for batch in batches if batch.time_ids is not None]
    noisy = torch.cat([batch.noisy for batch in batches])
    return [
        NoisedBatch(
            noisy=noisy,
            goal=torch.cat([batch.goal for batch in batches]),
            timesteps=torch.cat([batch.timesteps for batch in batches]),
            prompts=[prompt for batch in batches for prompt in batch.prompts],
            time_ids=torch.cat(time_ids) if len(time_ids) == len(batches) else None,
            mask=_stack_masks(masks, noisy),
        )
    ]


def _prompts(chosen: Sequence[Example], part: MicroBatchPart, empty: int | None) -> list[int]:
    """The prompt of each picture: of several the one that `part` says."""
    captions = part.captions or (0.0,) * len(chosen)
    found = [it.prompts[int(place * len(it.prompts))] for it, place in zip(chosen, captions, strict=True)]
    if empty is None:
        return found
    return [empty if without else prompt for prompt, without in zip(found, part.nameless, strict=True)]


def _stack(time_ids: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    known = [row for row in time_ids if row is not None]
    return torch.stack(known).to(device) if len(known) == len(time_ids) else None


def _stack_masks(masks: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """(n, h, w) for latents `like` (n, c, h, w), ones for samples without a mask; None if no sample has one."""
    if all(mask is None for mask in masks):
        return None
    whole = torch.ones(like.shape[2:])
    return torch.stack([(whole if mask is None else mask).to(like.device) for mask in masks])
