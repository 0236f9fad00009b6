"""DINO and CLIP as a judge of photographs, as in the DreamBooth paper (arXiv 2208.12242, section 4.1)."""

# transformers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from dreamtune.errors import ConfigError, first_line
from dreamtune.models.load import quiet

DINO_TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Designs whose first output token stands for the whole picture. DINO's own is a plain vit."""
_BATCH = 16


@dataclass(frozen=True)
class DinoClip:
    """Identity is the cosine of DINO's class tokens; a prompt's score is CLIP-T, the cosine of picture and text."""

    dino: Any
    dino_processor: Any
    clip: Any
    clip_processor: Any
    tokenizer: Any
    device: torch.device
    name: str

    @classmethod
    def load(cls, dino: str, clip: str, device: torch.device) -> Self:
        """From folders or hub ids, safetensors only. Raises ConfigError when one is missing or of another kind."""
        with quiet():
            identity = _load("dino", dino, DINO_TYPES, device)
            image_text = _load("clip", clip, ("clip",), device)
            try:
                tokenizer = AutoTokenizer.from_pretrained(clip)
            except Exception as error:  # whatever a folder without one makes transformers raise
                raise ConfigError(f"clip = {clip!r} has no readable tokenizer ({first_line(error)})") from None
        return cls(*identity, *image_text, tokenizer, device, f"{_label(dino)} and {_label(clip)}")

    @torch.no_grad()
    def identity(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(n, width) unit class tokens."""
        rows = [
            self.dino(pixel_values=self._pixels(self.dino_processor, part)).last_hidden_state[:, 0]
            for part in _parts(pictures)
        ]
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()

    @torch.no_grad()
    def prompt_scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """(n,) cosines; prompts are cut to the encoder's length."""
        scores = []
        for part, texts in zip(_parts(pictures), _parts(prompts), strict=True):
            tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
            output = self.clip(**tokens, pixel_values=self._pixels(self.clip_processor, part))
            scores.append(F.cosine_similarity(output.image_embeds, output.text_embeds, dim=-1))
        return torch.cat(scores).float().cpu()

    def _pixels(self, processor: Any, pictures: Sequence[Image.Image]) -> Tensor:
        return processor(images=list(pictures), return_tensors="pt").pixel_values.to(self.device)


def _load(setting: str, source: str, types: Sequence[str], device: torch.device) -> tuple[Any, Any]:
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind in types:
            model = AutoModel.from_pretrained(source, use_safetensors=True)
            # Pillow's resampling whether torchvision is there or not: equal pictures get equal figures everywhere.
            processor = AutoImageProcessor.from_pretrained(source, backend="pil")
            return model.eval().requires_grad_(False).to(device), processor
    except Exception as error:  # whatever a missing, partial or foreign model makes the libraries raise
        raise ConfigError(
            f"cannot load {setting} = {source!r} ({first_line(error)}): use a folder that transformers can load, "
            "with model.safetensors and preprocessor_config.json, or the id of such a model on the hub"
        ) from None
    raise ConfigError(f"{setting} = {source!r} is a {kind}: use a model of the type {' or '.join(types)}")


def _label(source: str) -> str:
    """The name of a folder, or a hub id: reports hold no path of this machine."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + _BATCH] for i in range(0, len(items), _BATCH)]
