"""Judges of images: the embedded base's own evaluators, or DINO and CLIP from a local folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from dreamtune.data.encode import read_pixels
from dreamtune.data.subject import Subject
from dreamtune.errors import ConfigError

from .dino_clip import DinoClip
from .pocket_judge import PocketJudge

REMEDY = (
    "set dino to an identity encoder (e.g. facebook/dinov2-small) and clip to an image-text encoder (e.g. "
    "openai/clip-vit-large-patch14), each a folder or a hub id"
)
"""How to get a judge for photographs."""


class Judge(Protocol):
    """Looks at pictures of any size, in batches of its own."""

    @property
    def name(self) -> str:
        """What judged, for reports: without the path of a folder."""
        ...

    def identity(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(n, width) unit rows fp32 on the CPU; cosines compare individuals."""
        ...

    def prompt_scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """(n,) fp32 on the CPU: how well picture i fits prompt i, higher is better; NaN where nothing can be told.

        The prompts name no token: what a judge has never heard of it cannot look for.
        """
        ...


def load_judge(base: str, device: torch.device, dino: str | None = None, clip: str | None = None) -> Judge:
    """The judge for images of the base with the id `base`: DINO and CLIP if they are given, else pocket's own.

    Raises ConfigError when a base other than pocket has none, when one of the two is missing or is no such encoder,
    and BaseModelError when pocket's evaluators are not installed.
    """
    check_judge(base, dino, clip)
    if dino and clip:
        return DinoClip.load(dino, clip, device)

    return PocketJudge.load()


def check_judge(base: str, dino: str | None, clip: str | None) -> None:
    """Raise ConfigError where :func:`load_judge` would for want of an encoder. Loads nothing."""
    if bool(dino) != bool(clip):
        given, missing = ("dino", "clip") if dino else ("clip", "dino")
        raise ConfigError(f"{given} is set, but {missing} is not: {REMEDY}")
    if base != "pocket" and not dino:
        raise ConfigError(f"no judge for images of the base {base!r}: {REMEDY}")


def reference_pictures(subject: Subject) -> list[Image.Image]:
    """Each photo cropped and sized as for training. Raises DatasetError if a file has changed since its check."""
    pictures = []
    for photo in subject.photos:
        pixels = read_pixels(photo).add(1).mul(127.5).round().byte()  # (3, h, w)
        pictures.append(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    return pictures
