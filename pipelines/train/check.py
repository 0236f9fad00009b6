"""What training would do with a folder of images, and what is wrong with it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamtune.data.buckets import Framing
from dreamtune.data.images import Remark
from dreamtune.data.subject import check_folder, check_usable
from dreamtune.data.survey import Photo, survey
from dreamtune.data.words import caption_remarks, token_remarks
from dreamtune.errors import DatasetError
from dreamtune.models import load_base
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.training.config import TrainConfig

PATIENCE = 2.0
"""Seconds."""


@dataclass(frozen=True)
class CheckResult:
    """What was found in a folder."""

    folder: Path
    photos: tuple[Photo, ...]
    """Those that training would use."""
    remarks: tuple[Remark, ...]
    """One line per problem, in the order of the files."""
    error: str | None
    """Why training would refuse the folder."""

    @property
    def shapes(self) -> dict[str, int]:
        """How many images are trained at each size, as "576x448", the most frequent first."""
        return dict(Counter("{}x{}".format(*photo.crop.size) for photo in self.photos).most_common())

    @property
    def conversions(self) -> dict[str, int]:
        """How many images were converted, by what was done."""
        return dict(Counter(what for photo in self.photos for what in photo.conversions).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "folder": str(self.folder),
            "usable": len(self.photos),
            "skipped": sorted({remark.file for remark in self.remarks if remark.skipped}),
            "shapes": self.shapes,
            "conversions": self.conversions,
            "pictures": [
                {
                    "file": photo.file,
                    "size": list(photo.crop.original),
                    "trained_at": list(photo.crop.size),
                    "kept": round(photo.crop.kept, 4),
                    "captions": list(photo.captions),
                    "masked": photo.mask is not None,
                    "conversions": list(photo.conversions),
                }
                for photo in self.photos
            ],
            "remarks": [vars(remark) for remark in self.remarks],
            "error": self.error,
        }


def patiently(on_progress: OnProgress) -> Callable[[int, int], None]:
    """Reports progress on the images, but only once it has taken more than a moment."""
    began = time.monotonic()

    def looked(done: int, total: int) -> None:
        if time.monotonic() - began > PATIENCE:
            on_progress(Progress("pictures", done, total))

    return looked


def check(
    images: str | Path,
    base: str = "pocket",
    resolution: int | None = None,
    token: str | None = None,
    class_word: str = "",
    strict: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Check a folder as `train` does before it starts, for a base at `resolution` pixels (default: the base's own).

    If `token` is given, captions are searched for it and its rarity is checked. Nothing is written. Raises DatasetError
    if there is no such folder, ConfigError and BaseModelError for an invalid base or resolution. That no image can be
    used, or with `strict` that one cannot, is in the result.
    """
    folder = check_folder(images)
    settings = TrainConfig(images=folder, class_word=class_word or "subject", base=base, resolution=resolution)
    loaded = load_base(base, device="cpu")
    settings = settings.with_presets(loaded.family)
    framing = Framing.of(loaded, resolution or loaded.resolution, settings.buckets)
    photos, remarks = survey(folder, framing, token, bool(settings.masks), on_progress)
    try:
        check_usable(folder, photos, remarks, strict)
        error = None
    except DatasetError as refusal:
        error = str(refusal)
    remarks += caption_remarks(photos, loaded.tokenizer)
    if token is not None:
        remarks += token_remarks(token, class_word, loaded.tokenizer)
    return CheckResult(folder, tuple(photos), tuple(remarks), error)
