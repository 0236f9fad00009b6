"""A training that has been checked and is ready to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from dreamtune.adapters import AdapterFile, AttachedParts
from dreamtune.adapters.parts import UNET
from dreamtune.data.composites import Composite, others_of_each
from dreamtune.data.subject import Subject
from dreamtune.evaluation import Judge
from dreamtune.models import Base
from dreamtune.models.conditioning import Conditioning
from dreamtune.pipelines.train.resume import Past
from dreamtune.storage import atomic
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import Conditioner, LiveConditioner
from dreamtune.training.objective import Objective


@dataclass(frozen=True)
class Prepared:
    """What has been checked, and is ready to be trained."""

    config: TrainConfig
    """Complete, with presets filled in."""
    base: Base
    contents: Mapping[str, str]
    """Hashes of what it is trained with (images, base, judge); a run can only be resumed with the same ones."""
    subject: Subject
    objective: Objective
    attached: AttachedParts
    """On the base with strength 0, which is exactly the base, until training begins."""
    judge: Judge | None = None
    """The judge of the run's images; None without scores."""
    composites: Sequence[Composite] = ()
    """Composites to make from the subject's images; none without `compose`."""
    past: Past | None = None
    """Of a run that is resumed."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter file records about its training besides the settings, see resume.CARRIED."""

    @property
    def drawing(self) -> Base:
        """The base with the training's noise schedule, for samples and scores; class images use the base's own."""
        return self.base.with_zero_terminal_snr() if self.config.zero_terminal_snr else self.base

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every prompt that training needs, once: those of the images, the class prompts (with prior preservation), the
        empty one (with caption dropout), and those of composites.
        """
        prior = self.config.prior_prompts if self.config.prior else ()
        empty = ("",) if self.config.caption_dropout else ()
        composed = (text for it in self.composites for text in it.captions(self.name))
        return tuple(dict.fromkeys((*self.subject.prompts, *prior, *empty, *composed)))

    @property
    def name(self) -> str:
        """What captions of composites call the subject."""
        return f"{self.config.token} {self.config.class_word}"

    @property
    def other_shares(self) -> dict[str, int]:
        """Other thing in composites -> number of its images to generate."""
        things = self.config.other_things if self.composites else ()
        return dict.fromkeys(things, others_of_each(things)) if things else {}

    def composed_rows(self, composite: Composite) -> tuple[int, ...]:
        """Places in :attr:`texts` of the captions of a composite."""
        return tuple(map(self.texts.index, composite.captions(self.name)))

    @property
    def empty(self) -> int | None:
        """Index of the empty prompt in :attr:`texts`; None if no image is trained with it."""
        return self.texts.index("") if self.config.caption_dropout else None

    def read(self, texts: Sequence[str], gradients: bool = False) -> list[Conditioning]:
        """Current text conditioning of `texts`; an empty one is the unconditional prompt of guidance."""
        found = self.base.condition(texts, gradients=gradients)
        return [it if text else self.base.emptied(it) for text, it in zip(texts, found, strict=True)]

    def conditioner(self) -> Conditioner | None:
        """Encodes :attr:`texts` during training if their meaning changes; None if the cached embeddings are used."""
        if not self.config.trains_text:
            return None
        return LiveConditioner(self.texts, partial(self.read, gradients=True))

    def release(self) -> None:
        """Free the memory of what the loop does not need, once prompts and images are encoded."""
        config = self.config
        if not (config.sample_every or config.score_every or config.trains_text):
            self.base.release()  # it sees nothing but the UNet; pictures on the way and trained prompts need the rest

    def save(self, path: Path, step: int | None = None) -> None:
        """Write the current adapter file atomically; equal weights give equal bytes.

        step: recorded if given. Raises OSError, AdapterFileError for NaN or infinite values.
        """
        config = self.config
        training = config.public() | ({} if step is None else {"kept_step": step}) | dict(self.told)
        parts = self.attached.parts
        file = AdapterFile.from_attached(
            parts.pop(UNET),
            base=self.base.id,
            token=config.token,
            class_word=config.class_word,
            training=training,
            text_encoders=parts,
            word=self.attached.word,
        )
        with atomic(path) as temporary:
            temporary.write_bytes(file.to_bytes())
