"""Defaults that depend on the family of the base and on the method: the tables to tune.

A row holds only what differs from the defaults written in :class:`~dreamtune.training.config.TrainConfig`, which
are those of LoRA on Stable Diffusion 1.x at 512 px. A preset fills in what the user did not set.

A learning rate belongs to its method and to its scale alpha/rank, so these are set together.
"""

from __future__ import annotations

from typing import Any

from dreamtune.models.families import USUAL

_FIELDS = {"instance_prompt": "subject", "class_prompt": "thing", "sampling_steps": "steps", "guidance": "guidance"}
"""Setting -> where models.families has it, for how pictures are drawn and subjects are called."""


def _usual(family: str) -> dict[str, Any]:
    """What differs from the defaults there."""
    own, defaults = USUAL[family], USUAL["sd1"]
    return {key: getattr(own, it) for key, it in _FIELDS.items() if getattr(own, it) != getattr(defaults, it)}


PRESETS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": _usual("sd2"),
    # Four pictures of 1024 px at once rarely fit a card, four after one another do.
    "sdxl": {**_usual("sdxl"), "gradient_accumulation_steps": 4, "precision": "bf16"},
    # A small UNet wants larger steps. It has seen nothing but squares. Its attention alone moves too little: with
    # feed-forward layers and projections subjects are more like themselves, and heard where their word comes second.
    "pocket": {
        **_usual("pocket"),
        "buckets": False,
        "targets": "attn+ff+proj",
        "steps": 700,
        "batch_size": 4,
        "lr": 1e-3,
        "warmup_steps": 10,
        "lr_schedule": "cosine",
        "prior_images": 64,
        # Masked, the subject weighs more in the loss than any class picture's: its class would follow it.
        "prior_weight": 2.0,
        "masks": "auto",
    },
}
"""By family of the base."""

_FULL_SIZE: dict[str, dict[str, Any]] = {
    # The product of two factors' products is bent more by a step: a smaller scale, and a larger lr to make up for it.
    "loha": {"rank": 8, "alpha": 4.0, "lr": 3e-4},
    # With -1, its default, the two matrices are so small that it underfits; 8 leaves one of them large.
    "lokr": {"rank": 16, "alpha": 16.0, "lr": 5e-4, "method_options": {"factor": 8}},
    # It learns angles, which do not shrink with the size of the weights as LoRA's numbers do.
    "spectral-r": {"lr": 2e-2},
    # What the DreamBooth paper has for all weights of Stable Diffusion.
    "full": {"lr": 5e-6},
}

METHOD_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": _FULL_SIZE,
    "sd2": _FULL_SIZE,
    "sdxl": _FULL_SIZE,
    "pocket": {
        "loha": {"rank": 8, "alpha": 4.0, "lr": 3e-3},
        "lokr": {"rank": 16, "alpha": 16.0, "lr": 1e-2, "method_options": {"factor": 8}},
        "spectral-r": {"lr": 5e-2},
        "full": {"lr": 1e-4},
    },
}
"""By family and method; wins over the family's row. A method without a row is trained as LoRA is."""


def preset(family: str, method: str) -> dict[str, Any]:
    """Defaults for `method` on a base of `family`, besides TrainConfig's own; empty for an unknown family."""
    return PRESETS.get(family, {}) | METHOD_PRESETS.get(family, {}).get(method, {})
