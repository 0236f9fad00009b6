"""Attach to a base everything that a training is to train."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dreamtune.adapters import AttachedParts, NewToken, attach
from dreamtune.adapters.parts import TEXT_ENCODERS, UNET, holder
from dreamtune.adapters.together import WORD
from dreamtune.models import Base
from dreamtune.training.config import TrainConfig


def attach_all(base: Base, config: TrainConfig, on_progress: Callable[[int, int], None] | None = None) -> AttachedParts:
    """New adapters on the UNet and, if asked for, the text encoders, and a new word for the token, at strength 0.

    The word's vectors start as the mean of those of the class word: the subject is at first what any of its class is.
    `on_progress` as in adapters.attach, for the UNet. Raises ConfigError for settings that do not fit the base.
    """
    method = config.method_config()
    parts = {UNET: attach(base.unet, method, config.targets, config.seed, ranks=config.ranks, on_progress=on_progress)}
    if config.text_encoder:
        for part in TEXT_ENCODERS:
            if part in base.parts:
                parts[part] = attach(holder(part, base.parts[part]), method, "text", config.seed)
    words = []
    if config.pivotal:
        start = base.word_vectors(config.class_word)
        words = [NewToken(config.token, {part: torch.stack([mean] * config.pivotal) for part, mean in start.items()})]
        base.add_token(words[0])
    text, vectors = config.lr_ratios
    ratios = {**dict.fromkeys(TEXT_ENCODERS, text), WORD: vectors}
    return AttachedParts(parts, *words, strength=0, lr_ratios=ratios)
