"""A loaded base model of the Stable Diffusion XL design: two text encoders and micro-conditioning."""

# diffusers and transformers annotate arguments and results more narrowly than they accept and return.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .base import Base
from .conditioning import Conditioning
from .emphasis import Emphasis


@dataclass(frozen=True, kw_only=True)
class SdxlBase(Base):
    """The parts of an SDXL base (Podell et al. 2023), as :class:`Base` has them and with a second text encoder."""

    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The models that adapters can change, by the names that adapter files have for them."""
        return {**super().parts, "text_encoder_2": self.text_encoder_2}

    def pipeline(self) -> Any:
        """A silent diffusers pipeline on these very parts, so that attached adapters take effect."""
        pipeline = StableDiffusionXLPipeline(
            **self._components(),
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            force_zeros_for_empty_prompt=self.zeros_for_empty,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _tokenizers(self) -> dict[str, CLIPTokenizer]:
        return {**super()._tokenizers(), "text_encoder_2": self.tokenizer_2}

    def _condition(self, prompts: list[str], read: Sequence[Emphasis] = ()) -> list[Conditioning]:
        """Both encoders' last but one hidden states, side by side, and the pooled state of the second."""
        states, pooled = [], None
        for part, encoder in (("text_encoder", self.text_encoder), ("text_encoder_2", self.text_encoder_2)):
            output = encoder(self._tokens(part, prompts)[0], output_hidden_states=True)
            states.append(self._weighed(part, output.hidden_states[-2], read))
            pooled = output[0].float()
        return [Conditioning(*pair) for pair in zip(torch.cat(states, dim=-1), pooled, strict=True)]
