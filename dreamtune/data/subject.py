"""A folder of pictures as a validated subject, with a remark on everything that was not used as it stood."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dreamtune.data.images import (
    SUFFIXES,
    Remark,
    UnusablePicture,
    fit,
    open_picture,
    perceptual_hash,
    printable,
    to_tensor,
)
from dreamtune.errors import DatasetError

CAPTION_SUFFIXES = (".txt", ".caption")
NEAR = 2
"""Pictures whose perceptual hashes differ in at most this many of 64 bits look alike."""


@dataclass(frozen=True)
class Subject:
    """Pictures of one subject, ready for the VAE; entry i of each tuple belongs to picture i."""

    class_word: str
    token: str
    resolution: int
    images: tuple[Tensor, ...]
    """(3, resolution, resolution) fp32 in [-1, 1] each."""
    files: tuple[str, ...]
    """Names inside the folder, safe to print."""
    digests: tuple[str, ...]
    """SHA-256 of each file's bytes."""
    captions: tuple[str, ...]
    """The caption beside the picture, or the instance prompt."""
    remarks: tuple[Remark, ...]
    """One line per problem, in the order of the files."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The captions, each once, in the order of their first picture."""
        return tuple(dict.fromkeys(self.captions))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the pictures that were left out."""
        return tuple(dict.fromkeys(remark.file for remark in self.remarks if remark.skipped))

    @property
    def digest(self) -> str:
        """Hash of all that training sees of the subject; equal digests mean equal data."""
        parts = [str(self.resolution), *self.digests, *self.captions]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def check_folder(images_dir: str | Path) -> Path:
    """The folder, resolved, if it exists and holds any file. Raises DatasetError otherwise. Cheap."""
    folder = Path(images_dir).expanduser()
    try:
        if not folder.exists():
            raise DatasetError(f"no folder of pictures at {folder}: check the path")
        if not folder.is_dir():
            raise DatasetError(f"{folder} is a file: give the folder that holds the pictures")
        if not any(folder.iterdir()):
            raise DatasetError(f"{folder} is empty: put 3 to 30 pictures of the subject into it")
    except OSError as error:
        raise DatasetError(f"cannot look into {folder}: {error.strerror or error}") from None
    return folder.resolve()


def load_subject(
    images_dir: str | Path,
    class_word: str,
    token: str = "sks",
    resolution: int = 512,
    strict: bool = False,
    instance_prompt: str | None = None,
) -> Subject:
    """Read every picture of a folder, upright and square, at `resolution` pixels.

    A picture named x.jpg takes its caption from x.txt or x.caption beside it, else `instance_prompt` (default "a
    {token} {class_word}"). Unusable pictures and exact duplicates are left out with a remark, foreign files and
    subfolders are remarked on. Raises DatasetError for a missing or empty folder, for no usable picture, and
    with `strict` for any picture left out.
    """
    folder = check_folder(images_dir)
    reader = _Reader(resolution, token, instance_prompt or f"a {token} {class_word}")
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    captions = {path.name: path for path in entries if path.suffix.lower() in CAPTION_SUFFIXES}
    for path in entries:
        if not path.name.startswith(".") and path.name not in (*captions, "Thumbs.db", "desktop.ini"):
            reader.read(path, captions)
    for name in captions.keys() - reader.used_captions:
        reader.remark(Path(name), "belongs to no picture that was used", "name it after the picture it describes")
    remarks = tuple(sorted(reader.remarks, key=lambda remark: remark.file))
    skipped = [remark for remark in remarks if remark.skipped]
    if strict and skipped:
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise DatasetError(f"{folder}: {skipped[0]}{more}; or go on without strict, which leaves such files out")
    if not reader.images:
        first = f"; for example {(skipped or remarks)[0]}" if remarks else ""
        raise DatasetError(f"no usable picture among the {len(entries)} entries of {folder}{first}")
    return Subject(
        class_word=class_word,
        token=token,
        resolution=resolution,
        images=tuple(reader.images),
        files=tuple(reader.files),
        digests=tuple(reader.digests),
        captions=tuple(reader.captions),
        remarks=remarks,
    )


class _Reader:
    """Collects pictures and remarks file by file."""

    def __init__(self, resolution: int, token: str, instance_prompt: str) -> None:
        self.resolution, self.token, self.instance_prompt = resolution, token, instance_prompt
        self.images: list[Tensor] = []
        self.files: list[str] = []
        self.digests: list[str] = []
        self.captions: list[str] = []
        self.remarks: list[Remark] = []
        self.used_captions: set[str] = set()
        self._hashes: list[int] = []

    def remark(self, path: Path, problem: str, remedy: str, skipped: bool = False) -> None:
        self.remarks.append(Remark(printable(path.name), problem, remedy, skipped))

    def read(self, path: Path, captions: dict[str, Path]) -> None:
        """Take the picture at `path`, or remark why not."""
        named_as_picture = path.suffix.lower() in SUFFIXES
        try:
            if path.is_dir():
                self.remark(path, "is a folder", "its pictures are not read: move them up")
                return
            if not path.is_file():  # a broken link, a pipe, a socket: reading could wait for ever
                self.remark(path, "is no regular file", "remove it", skipped=named_as_picture)
                return
        except OSError as error:  # a loop of links
            self.remark(path, f"cannot be followed ({error.strerror})", "remove it", skipped=named_as_picture)
            return
        try:
            picture = open_picture(path)
        except UnusablePicture as error:
            if named_as_picture:
                self.remark(path, error.problem, error.remedy, skipped=True)
            else:
                self.remark(path, "is no picture", "it is not used")
            return
        if picture.digest in self.digests:
            twin = self.files[self.digests.index(picture.digest)]
            self.remark(path, f"is the same file as {twin}", "it is used once")
            return
        for problem, remedy in picture.notes:
            self.remark(path, problem, remedy)
        self._inspect(path, picture.image.size)
        square = fit(picture.image, self.resolution)
        self._find_twin(path, perceptual_hash(square))
        self.images.append(to_tensor(square))
        self.files.append(printable(path.name))
        self.digests.append(picture.digest)
        self.captions.append(self._caption(path, captions))

    def _inspect(self, path: Path, size: tuple[int, int]) -> None:
        short, long = sorted(size)
        if short * 2 < self.resolution:
            self.remark(path, f"is enlarged from {short} to {self.resolution} pixels", "use a sharper picture")
        if long > 2 * short:
            self.remark(path, f"loses its ends ({size[0]}x{size[1]} cropped to a square)", "crop it to the subject")

    def _find_twin(self, path: Path, value: int) -> None:
        for other, name in zip(self._hashes, self.files, strict=True):
            if (other ^ value).bit_count() <= NEAR:
                self.remark(path, f"looks like {name}", "keep one if they show the same")
                break
        self._hashes.append(value)

    def _caption(self, path: Path, captions: dict[str, Path]) -> str:
        for suffix in CAPTION_SUFFIXES:
            file = captions.get(path.stem + suffix)
            if file is None:
                continue
            self.used_captions.add(file.name)
            try:
                text = " ".join(file.read_text(encoding="utf-8-sig").split())
            except (OSError, UnicodeDecodeError):
                self.remark(file, "cannot be read as UTF-8 text", "save it as UTF-8; the instance prompt is used")
                continue
            if not text:
                self.remark(file, "is empty", "the instance prompt is used")
                continue
            if self.token not in text:
                self.remark(file, f"does not hold the token {self.token!r}", "the subject is learned without its name")
            return text
        return self.instance_prompt
