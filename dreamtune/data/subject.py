"""A folder of images as a validated subject, with a remark on everything that was not used as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamtune.data.buckets import Framing
from dreamtune.data.images import Remark
from dreamtune.data.survey import Photo, survey
from dreamtune.errors import DatasetError


@dataclass(frozen=True)
class Subject:
    """Pictures of one subject, and what training calls them."""

    class_word: str
    token: str
    framing: Framing
    photos: tuple[Photo, ...]
    """Those that are used, in order of name."""
    captions: tuple[tuple[str, ...], ...]
    """Of each photo: what stands beside it, or the instance prompts; it has one of them each time it is seen."""
    remarks: tuple[Remark, ...]
    """One line per problem, in the order of the files."""

    @property
    def resolution(self) -> int:
        """Side of the square shape in pixels."""
        return self.framing.resolution

    @property
    def prompts(self) -> tuple[str, ...]:
        """The captions, each once, in the order of their first picture."""
        return tuple(dict.fromkeys(caption for captions in self.captions for caption in captions))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the pictures (and masks) that were left out."""
        return tuple(dict.fromkeys(remark.file for remark in self.remarks if remark.skipped))

    @property
    def digest(self) -> str:
        """Hash of all that training sees of the subject; equal digests mean equal data."""
        parts = []
        for photo, captions in zip(self.photos, self.captions, strict=True):
            mask = "" if photo.mask is None else hashlib.sha256(photo.mask.tobytes()).hexdigest()
            if photo.made_mask is not None:  # of another machine's arithmetic it may differ in a pixel
                mask = "made"
            parts += [photo.digest, str(photo.crop), "\n".join(captions), mask]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def check_folder(images_dir: str | Path) -> Path:
    """The folder, resolved, if it exists and holds any file. Raises DatasetError otherwise. Cheap."""
    folder = Path(images_dir).expanduser()
    try:
        if not folder.exists():
            raise DatasetError(f"no image folder at {folder}: check the path")
        if not folder.is_dir():
            raise DatasetError(f"{folder} is a file: use the folder that contains the images")
        if not any(folder.iterdir()):
            raise DatasetError(f"{folder} is empty: put 3 to 30 images of the subject into it")
    except OSError as error:
        raise DatasetError(f"cannot open {folder}: {error.strerror or error}") from None
    return folder.resolve()


def check_usable(folder: Path, photos: Sequence[Photo], remarks: Sequence[Remark], strict: bool = False) -> None:
    """Raise DatasetError if no picture can be used, or with `strict` if any picture or mask was left out."""
    skipped = [remark for remark in remarks if remark.skipped]
    if strict and skipped:
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise DatasetError(f"{folder}: {skipped[0]}{more}; or turn off strict, which leaves such files out")
    if not photos:
        first = f"; e.g. {(skipped or remarks)[0]}" if remarks else ""
        raise DatasetError(f"no usable image in {folder}{first}")


def load_subject(
    images_dir: str | Path,
    class_word: str,
    token: str = "sks",
    framing: Framing | None = None,
    strict: bool = False,
    prompts: Sequence[str] = (),
    masks: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Subject:
    """Survey a folder and determine how each image in it is used.

    A picture named x.jpg takes its captions from x.txt or x.caption beside it or from metadata.jsonl, else
    `prompts` (default "a {token} {class_word}"), and its mask from x.mask.png or its own transparency.
    `framing` (default that of SD 1.x) decides shapes and cropping. Unusable pictures and exact duplicates are left
    out with a remark, foreign files and subfolders are remarked on. `on_progress(done, of)` is told after each file.

    Raises DatasetError for a missing or empty folder, for no usable picture, and with `strict` for any left out.
    """
    framing = framing or Framing(512)
    folder = check_folder(images_dir)
    photos, remarks = survey(folder, framing, token, masks, on_progress)
    check_usable(folder, photos, remarks, strict)
    prompts = tuple(prompts) or (f"a {token} {class_word}",)
    return Subject(
        class_word=class_word,
        token=token,
        framing=framing,
        photos=tuple(photos),
        captions=tuple(photo.captions or prompts for photo in photos),
        remarks=tuple(remarks),
    )
