"""What training sees of images and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dreamtune.data.encode import Example
from dreamtune.models.conditioning import Conditioning, unet_inputs


@dataclass(frozen=True)
class TrainingData:
    """Pictures as latents, prompts as the base's text encoders see them; CPU tensors, fp32."""

    subjects: tuple[Example, ...]
    """The subject's pictures, of one or several shapes."""
    prior: tuple[Example, ...]
    """The class pictures; empty without prior preservation, and with :attr:`class_prompt`."""
    prompts: tuple[Conditioning, ...]
    """What the base is told of each prompt; :attr:`Example.prompts` are places in here."""
    texts: tuple[str, ...]
    """The same prompts in words."""
    class_prompt: int | None = None
    """Place of the class prompt when its prior is the base's own prediction; None otherwise."""

    composites: tuple[Example, ...] = ()
    """The subject beside other things, all of one shape, for :attr:`TrainSettings.compose`."""
    empty: int | None = None
    """Place of the empty prompt, when pictures of the subject are seen with it at times; None otherwise."""

    @property
    def has_prior(self) -> bool:
        """Whether the loss has a second part."""
        return bool(self.prior) or self.class_prompt is not None


class Conditioner(Protocol):
    """Gives the UNet its prompts."""

    def __call__(self, prompts: Sequence[int], time_ids: Tensor | None) -> dict[str, Any]:
        """Keyword arguments of the UNet for a batch of n samples, on the training's device.

        prompts: n places in :attr:`TrainingData.prompts`; time_ids: (n, 6), see Example, or None.
        """
        ...


class CachedConditioner:
    """Prompts as the base's text encoders saw them before training."""

    def __init__(self, prompts: Sequence[Conditioning], device: torch.device) -> None:
        self._prompts = [prompt.to(device) for prompt in prompts]

    def __call__(self, prompts: Sequence[int], time_ids: Tensor | None) -> dict[str, Any]:
        """See :class:`Conditioner`."""
        return unet_inputs([self._prompts[row] for row in prompts], time_ids)


class LiveConditioner:
    """Prompts as the base's text encoders see them now, for a training that changes what they see."""

    def __init__(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Sequence[Conditioning]]) -> None:
        """texts: :attr:`TrainingData.texts`; encode: gives their Conditioning, with gradients where they are wanted."""
        self._texts, self._encode = texts, encode

    def __call__(self, prompts: Sequence[int], time_ids: Tensor | None) -> dict[str, Any]:
        """See :class:`Conditioner`; a prompt of several samples is encoded once."""
        rows = list(dict.fromkeys(prompts))
        found = dict(zip(rows, self._encode([self._texts[row] for row in rows]), strict=True))
        return unet_inputs([found[row] for row in prompts], time_ids)
