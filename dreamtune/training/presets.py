"""Defaults that depend on the family of the base: the one table to tune.

A row holds only what differs from the defaults written in :class:`~dreamtune.training.config.TrainConfig`,
which are those of Stable Diffusion 1.x at 512 px. A preset fills in what the user did not set.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {},
    # A small UNet wants larger steps and batches; its captions read "a sks dog", never "a photo of".
    "pocket": {
        "instance_prompt": "a {token} {class}",
        "class_prompt": "a {class}",
        "steps": 400,
        "batch_size": 8,
        "lr": 1e-3,
        "warmup_steps": 10,
        "lr_schedule": "cosine",
        "prior_images": 64,
        "sampling_steps": 20,
        "guidance": 3.0,
    },
}
