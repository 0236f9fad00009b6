"""Opening real-world images: rotated, transparent, palette, 16-bit, broken, mislabeled.

A picture that cannot be used is reported as a remark with the remedy; nothing here raises for its sake.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from dreamtune.errors import first_line
from dreamtune.storage import open_regular

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded: a few kilobytes can claim gigabytes."""
MAX_BYTES = 512 << 20
"""Larger files are not read."""
LARGE = 24_000_000
"""Pictures with more pixels than this are decoded one at a time, whatever the number of threads."""
MIN_SIDE = 16
"""A shorter side in pixels shows no subject."""
LAID_ON_WHITE = "laid on white"
"""Conversion of a picture whose transparency is its mask."""
HEIF = find_spec("pillow_heif") is not None
"""Whether HEIC, which iPhones write, can be read: the extra `heif`."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else []), *["HEIF"] * HEIF)
"""Pillow's names of the formats that are read; others (EPS, ...) would start foreign programs. MPO opens as JPEG."""
SUFFIXES = dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG") | {
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
"""Extensions of pictures and what they promise; the content decides."""
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError),
    *(IndexError, KeyError, TypeError, RuntimeError),
)
"""What Pillow's decoders raise on damaged files; AVIF's the last."""
_ONE_LARGE = threading.Lock()
BRIGHT = 16.0
"""Floating point up to this is taken for 0 to 1 with lights above; of 0 to 255 it would be black."""
_SLICE = 256
"""Rows that are converted from 16 bits at a time."""


@dataclass(frozen=True)
class Remark:
    """Something about a file that the user should know."""

    file: str
    """Name inside the folder, safe to print."""
    problem: str
    remedy: str
    skipped: bool = False
    """True if an image (not merely another kind of file) was left out."""

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}; {self.remedy}"


class UnusablePicture(Exception):
    """An image that is left out: `problem` and `remedy` say why and what to do. Never leaves this package."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True)
class Picture:
    """One decoded picture."""

    image: Image.Image
    """RGB, upright; smaller than `size` if it was opened so."""
    size: tuple[int, int]
    """Width and height of the upright picture in the file."""
    alpha: Image.Image | None
    """L, of the size of `image`: how opaque it is, if any of it is not."""
    digest: str
    """SHA-256 of the file's bytes."""
    notes: tuple[tuple[str, str], ...]
    """(problem, remedy) of things that do not prevent its use."""
    conversions: tuple[str, ...]
    """What was done to it, harmlessly: "rotated upright", ..."""


def printable(name: str) -> str:
    """A file name on one line without control characters."""
    return name if name.isprintable() else ascii(name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings of odd metadata, which decoding survives, away. Not for a thread of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_picture(path: Path, side: int | None = None) -> Picture:
    """Read and decode `path`, whatever its extension says. Raises UnusablePicture.

    With `side` a JPEG is decoded no larger than is needed for a shorter side of that many pixels, which is faster
    and takes less memory. Call it within :func:`quiet`.
    """
    try:
        with open_regular(path) as file:
            large = os.fstat(file.fileno()).st_size > MAX_BYTES
            data = b"" if large else file.read(MAX_BYTES + 1)
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM)
        remedy = "check its permissions" if refused else "use an image that can be read"
        raise UnusablePicture(f"cannot be read ({error.strerror or error})", remedy) from None
    if large or len(data) > MAX_BYTES:
        raise UnusablePicture(f"is larger than {MAX_BYTES >> 20} MiB", "save it as JPEG or PNG")
    return decode(data, path.suffix.lower(), side)


def decode(data: bytes, suffix: str, side: int | None = None) -> Picture:
    """Decode a file's bytes into an upright RGB picture; see :func:`open_picture`. Raises UnusablePicture."""
    if not data:
        raise UnusablePicture("is empty (0 bytes)", "copy it again")
    notes: list[tuple[str, str]] = []
    image = _open(data)
    _check_size(*image.size)
    stored, mode = image.size, image.mode
    kind = "JPEG" if image.format == "MPO" else image.format  # phones add depth maps to a JPEG: still a JPEG
    if SUFFIXES.get(suffix, kind) != kind:
        notes.append((f"is a {kind} despite its extension", "rename it"))
    try:
        if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
            notes.append(("has several frames", "only the first is used"))
        image.seek(0)
        if side is not None:
            image.draft(None, (side, side))
        with _ONE_LARGE if image.width * image.height > LARGE else contextlib.nullcontext():
            image.load()
            upright = ImageOps.exif_transpose(image)
            turned = image.getexif().get(0x0112, 1) in range(2, 9)
            alpha = _alpha(upright)
            rgb = to_rgb(upright)
    except _DAMAGE as error:
        raise UnusablePicture(f"is damaged ({first_line(error, 80)})", "copy it again or re-save it") from None
    conversions = ["rotated upright"] * turned + _conversions(mode, alpha is not None)
    swapped = turned and image.getexif().get(0x0112, 1) >= 5
    size = (stored[1], stored[0]) if swapped else stored
    return Picture(rgb, size, alpha, hashlib.sha256(data).hexdigest(), tuple(notes), tuple(conversions))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: alpha onto white, 16-bit and floating point scaled to 8, palettes and CMYK expanded.

    Floating point has no range of its own: 0 to 1 (lights above are cut off), 0 to 255 or 0 to 65535, by the brightest
    number. Raises UnusablePicture where one is not finite.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(image)
        brightest = float(values.max())
        if image.mode == "F" and not np.isfinite(values).all():
            raise UnusablePicture("contains NaN or infinity", "save it as JPEG or PNG")
        top = 65535.0 if image.mode.startswith("I;16") or brightest > 255 else 255.0
        if image.mode == "F" and brightest <= BRIGHT:
            top = 1.0
        small = np.empty(values.shape, np.uint8)
        for start in range(0, len(values), _SLICE):  # in slices: whole in fp64 it would take a gigabyte
            rows = values[start : start + _SLICE].astype(np.float64)
            small[start : start + _SLICE] = (rows.clip(0, top) * (255.0 / top)).round()
        return Image.fromarray(small).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(image, mask=image.getchannel("A"))
        return canvas
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """(3, h, w) fp32 in [-1, 1] of an RGB picture."""
    import torch

    pixels = torch.from_numpy(np.asarray(image, dtype=np.uint8).copy())
    return pixels.permute(2, 0, 1).float().div(127.5).sub(1).contiguous()


def perceptual_hash(image: Image.Image) -> int:
    """64-bit difference hash: nearly equal pictures differ in few bits."""
    gray = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")


def _open(data: bytes) -> Image.Image:
    if HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UnusablePicture(*_too_large()) from None
    except UnidentifiedImageError:
        start = data[:64].lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise UnusablePicture("is a web page, not an image", "download the image itself") from None
        if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
            remedy = "save it as JPEG or PNG" if HEIF else "pip install pillow-heif, or save it as JPEG or PNG"
            raise UnusablePicture("is HEIC or AVIF, which cannot be read here", remedy) from None
        raise UnusablePicture("is not a readable image", "save it as JPEG or PNG") from None
    except _DAMAGE as error:
        raise UnusablePicture(f"is damaged ({first_line(error, 80)})", "copy it again or re-save it") from None


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    lowest, highest = alpha.getextrema()
    if highest == 0:
        raise UnusablePicture("is fully transparent", "save it without transparency")
    return alpha if lowest != 255 else None


def _conversions(mode: str, transparent: bool) -> list[str]:
    changes = {"CMYK": "CMYK to RGB", "P": "palette to RGB", "I": "16-bit to 8-bit", "F": "32-bit to 8-bit"}
    change = changes.get(mode.partition(";")[0])
    return ([change] if change else []) + [LAID_ON_WHITE] * transparent


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusablePicture(*_too_large(f"{width}x{height} pixels"))
    if min(width, height) < MIN_SIDE:
        raise UnusablePicture(f"is only {width}x{height} pixels", "use a larger image")


def _too_large(size: str = "more pixels by its header") -> tuple[str, str]:
    return f"is too large ({size}; the limit is {MAX_PIXELS // 10**6} million pixels)", "scale it down"
