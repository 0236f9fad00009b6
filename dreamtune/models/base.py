"""A loaded base model of the Stable Diffusion 1.x/2.x design."""

# diffusers and transformers annotate arguments and results more narrowly than they accept and return.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import BaseModelError
from ..training.losses import PredictionType


@dataclass(frozen=True)
class Base:
    """The parts of a base model, frozen, in fp32 and evaluation mode on `device`."""

    id: str
    """What adapter files record: "pocket", a hub id, or the name of a folder or file (never its path)."""
    family: str
    """"pocket", "sd1" or "sd2"; decides the presets."""
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Any
    """The sampler that the base ships; :meth:`pipeline` works on a copy."""
    device: torch.device

    @property
    def factor(self) -> int:
        """Pixels along a side of one latent cell."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures the base was trained on."""
        size = self.unet.config["sample_size"]
        return (size if isinstance(size, int) else max(size)) * self.factor

    @property
    def step(self) -> int:
        """Sides of pictures must be multiples of this many pixels, for the VAE and every level of the UNet."""
        return max(8, self.factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1))

    @property
    def prediction_type(self) -> PredictionType:
        """What the UNet predicts. Raises BaseModelError if it cannot be trained here."""
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise BaseModelError(f"the base {self.id} predicts {kind!r}; only epsilon and v_prediction are known")
        return kind

    def noise_scheduler(self) -> DDPMScheduler:
        """The forward process that the base was trained with."""
        return cast(DDPMScheduler, DDPMScheduler.from_config(self.scheduler.config))

    def pipeline(self) -> StableDiffusionPipeline:
        """A silent diffusers pipeline on these very parts, so that attached adapters take effect."""
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Scaled latents (n, c, h, w) of pictures (n, 3, H, W) in [-1, 1]: the mode of the VAE's posterior."""
        latents = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mode()
        return (latents - self._shift) * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, H, W), about [-1, 1], of scaled latents."""
        latents = latents.to(self.device, self.vae.dtype) / self.vae.config["scaling_factor"] + self._shift
        return self.vae.decode(latents).sample

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, tokens, dim) of prompts, cut to the encoder's length; the same as the pipeline's."""
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", None):
            mask = tokens.attention_mask.to(self.device)
        return self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0
