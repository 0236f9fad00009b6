"""Latents of pictures and embeddings of prompts, each computed once and then read from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamtune.data.cache import Cache, key_of, weights_digest
from dreamtune.data.example import Example
from dreamtune.data.subject import Subject

if TYPE_CHECKING:
    from dreamtune.models import Base
    from dreamtune.models.conditioning import Conditioning


def subject_examples(
    base: Base, subject: Subject, flip: bool = False, cache: Cache | None = None
) -> tuple[Example, ...]:
    """The subject's pictures for training, with `flip` the mirrored ones after the others.

    Each one's `prompt` is a row of `subject.prompts`. Latents come from the cache where they are there.
    """
    latents = subject_latents(base, subject, flip, cache)
    side = float(subject.resolution)
    time_ids = torch.tensor([side, side, 0.0, 0.0, side, side])
    rows = [subject.prompts.index(caption) for caption in subject.captions] * (2 if flip else 1)
    return tuple(Example(latent, row, None, time_ids) for latent, row in zip(latents, rows, strict=True))


def prompt_conditionings(base: Base, prompts: Sequence[str], cache: Cache | None = None) -> list[Conditioning]:
    """What the UNet is told of each prompt, fp32 on the CPU; equal prompts are encoded once."""
    from dreamtune.models.conditioning import Conditioning

    cache = cache or Cache("prompts")
    encoders = {name: weights_digest(part) for name, part in base.parts.items() if name != "unet"}
    found: dict[str, Conditioning] = {}
    for prompt in dict.fromkeys(prompts):
        tokens = base.tokenizer(prompt, padding="max_length", truncation=True).input_ids
        key = key_of({"tokens": tokens, "encoders": encoders})
        entry = cache.get(key)
        if entry is None:
            made = base.condition([prompt])[0]
            entry = {"embedding": made.embedding.float().cpu()}
            if made.pooled is not None:
                entry["pooled"] = made.pooled.float().cpu()
            cache.put(key, entry)
        found[prompt] = Conditioning(entry["embedding"], entry.get("pooled"))
    return [found[prompt] for prompt in prompts]


def subject_latents(base: Base, subject: Subject, flip: bool = False, cache: Cache | None = None) -> Tensor:
    """Scaled latents (n, c, h, w) fp32 on the CPU; with `flip` (2n, ...), the mirrored pictures after the others.

    They are the mode of the VAE's posterior. An entry depends on the file's bytes, the size, the mirroring and
    the VAE's weights and type.
    """
    cache = cache or Cache("latents")
    vae = weights_digest(base.vae)
    rows = []
    for mirrored in (False, True) if flip else (False,):
        for image, digest in zip(subject.images, subject.digests, strict=True):
            key = key_of({"picture": digest, "vae": vae, "side": subject.resolution, "mirrored": mirrored})
            entry = cache.get(key)
            if entry is None:
                latent = base.encode_images((image.flip(-1) if mirrored else image)[None])[0].float().cpu()
                cache.put(key, entry := {"latent": latent})
            rows.append(entry["latent"])
    return torch.stack(rows)


def prompt_embeddings(base: Base, prompts: Sequence[str], cache: Cache | None = None) -> Tensor:
    """Embeddings (n, tokens, dim) fp32 on the CPU, one row per prompt; equal prompts are encoded once."""
    cache = cache or Cache("prompts")
    encoder = weights_digest(base.text_encoder)
    rows: dict[str, Tensor] = {}
    for prompt in dict.fromkeys(prompts):
        tokens = base.tokenizer(prompt, padding="max_length", truncation=True).input_ids
        key = key_of({"tokens": tokens, "encoder": encoder})
        entry = cache.get(key)
        if entry is None:
            cache.put(key, entry := {"embedding": base.condition([prompt])[0].embedding.float().cpu()})
        rows[prompt] = entry["embedding"]
    return torch.stack([rows[prompt] for prompt in prompts])
