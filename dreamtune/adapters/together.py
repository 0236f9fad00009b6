"""Adapters on several parts of a base, trained and switched as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from .attach import AttachedAdapter
from .attachment import Attachment
from .base import Adapter, ParameterOptions
from .parts import UNET, join_part
from .word import NewToken

WORD = "word"
"""What the learning rate of a new word's embeddings is called, beside those of the parts."""


class AttachedParts(Attachment):
    """The adapters on a UNet and its text encoders, and new words."""

    def __init__(
        self,
        parts: Mapping[str, AttachedAdapter],
        *words: NewToken,
        strength: float = 1.0,
        lr_ratios: Mapping[str, float] | None = None,
    ) -> None:
        """Bring together what is attached. parts: `unet`, `text_encoder`, `text_encoder_2` -> the adapter there.

        lr_ratios: part, or WORD -> learning rate as a multiple of the training's, 1 if left out.
        """
        super().__init__()
        self.by_part = nn.ModuleDict(dict(parts))
        # the first by a name of its own, which is that of the one word of a training in its checkpoints
        self.word = words[0] if words else None
        self.further_words = nn.ModuleList(words[1:])
        self._lr_ratios = dict(lr_ratios or {})
        self.strength = strength

    @property
    def parts(self) -> dict[str, AttachedAdapter]:
        """Part -> the adapter on it."""
        return dict(self.by_part.items())  # pyright: ignore[reportReturnType]

    @property
    def words(self) -> list[NewToken]:
        """The new words."""
        return [] if self.word is None else [self.word, *self.further_words]  # pyright: ignore[reportReturnType]

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Layer path, as in adapter files -> the adapter there."""
        return {join_part(part, path): it for part, on in self.parts.items() for path, it in on.adapters.items()}

    @property
    def strength(self) -> float:
        """The factor on ΔW of all parts; new words are there unless it is 0, which is exactly the base."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        for part in self.parts.values():
            part.strength = value
        self._strength = float(value)
        for word in self.words:
            word.active = self._strength != 0

    def merge(self) -> None:
        """Add strength·ΔW to the weights of all parts, see AttachedAdapter.merge."""
        for part in self.parts.values():
            part.merge()

    def detach(self) -> None:
        """Take adapters and words off: the models are then what they were, bit for bit."""
        for part in self.parts.values():
            part.detach()
        for word in self.words:
            word.detach()

    def on_step(self, step: int, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Tell every adapter that optimizer step `step` comes next, see AttachedAdapter.on_step."""
        remarks = []
        for name, part in self.parts.items():
            own = part.on_step(step, on_progress)
            remarks += own if name == UNET else [f"{name}: {remark}" for remark in own]
        return remarks

    def parameter_groups(self) -> dict[ParameterOptions, list[nn.Parameter]]:
        """The parameters by how the optimizer is to treat them."""
        groups: dict[ParameterOptions, list[nn.Parameter]] = {}
        for name, part in [*self.parts.items(), *((WORD, word) for word in self.words)]:
            for options, parameters in part.parameter_groups().items():
                ratio = options.lr_ratio * self._lr_ratios.get(name, 1.0)
                groups.setdefault(replace(options, lr_ratio=ratio), []).extend(parameters)
        return groups
