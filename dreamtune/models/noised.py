"""What a UNet predicts for noised pictures under prompts, outside of training and sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .base import Base
from .conditioning import Conditioning, unet_inputs


def noised(base: Base, latents: Tensor, shares: Sequence[float], seed: int) -> Iterator[tuple[Tensor, int]]:
    """(noised latents (m, c, h, w), timestep) of each of some amounts of noise, as many pictures at once as fit.

    latents: scaled, (n, c, h, w). shares: timesteps as shares of all, 0 (no noise) to 1. Picture i gets the noise of a
    CPU generator seeded with `seed` + i, the same at all timesteps.
    """
    scheduler = base.noise_scheduler()
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(latents))]
    noise = torch.cat([torch.randn(1, *latents.shape[1:], generator=it) for it in generators]).to(latents)
    some = max(1, base.batch_for(base.resolution) // 2)
    for share in shares:
        timestep = min(round(share * len(scheduler.alphas_cumprod)), len(scheduler.alphas_cumprod) - 1)
        kept = float(scheduler.alphas_cumprod[timestep])
        for picture, own in zip(latents.split(some), noise.split(some), strict=True):
            yield kept**0.5 * picture + (1 - kept) ** 0.5 * own, timestep


@torch.no_grad()
def predicted(base: Base, latents: Tensor, timestep: int, prompts: Sequence[Conditioning]) -> Tensor:
    """(prompts * n, c, h, w) fp32: what the UNet predicts for n noised latents, all under the first prompt first.

    SDXL is told that they are whole pictures of their own size.
    """
    height, width = (side * base.factor for side in latents.shape[-2:])
    told = [it.to(base.device, base.unet.dtype) for it in prompts for _ in latents]
    time_ids = torch.tensor([height, width, 0, 0, height, width]).to(base.device, base.unet.dtype)
    batch = latents.to(base.device, base.unet.dtype).repeat(len(prompts), 1, 1, 1)
    return base.unet(batch, timestep, **unet_inputs(told, time_ids.expand(len(told), -1))).sample.float()
