"""Opening pictures that people really have: rotated, transparent, palette, 16-bit, broken, mislabelled.

A picture that cannot be used is reported as a remark with the remedy; nothing here raises for its sake.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dreamtune.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded: a few kilobytes can claim gigabytes."""
MAX_BYTES = 512 << 20
"""Larger files are not read."""
MIN_SIDE = 16
"""A shorter side in pixels shows no subject."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are read; others (EPS, ...) would start foreign programs. MPO opens as JPEG."""
SUFFIXES = dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG") | {
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Extensions of pictures and what they promise; the content decides."""


@dataclass(frozen=True)
class Remark:
    """Something about a file that the user should know."""

    file: str
    """Name inside the folder, safe to print."""
    problem: str
    remedy: str
    skipped: bool = False
    """True if a picture (not merely a foreign file) was left out."""

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}; {self.remedy}"


class UnusablePicture(Exception):
    """A picture that is left out: `problem` and `remedy` say why and what to do. Never leaves this package."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True)
class Picture:
    """One decoded picture."""

    image: Image.Image
    """RGB, upright, at its full size."""
    digest: str
    """SHA-256 of the file's bytes."""
    notes: tuple[tuple[str, str], ...]
    """(problem, remedy) of things that do not prevent its use."""


def printable(name: str) -> str:
    """A file name on one line without control characters."""
    return name if name.isprintable() else ascii(name)


def open_picture(path: Path) -> Picture:
    """Read and decode `path`, whatever its extension says. Raises UnusablePicture."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusablePicture(f"is larger than {MAX_BYTES >> 20} MiB", "save it as JPEG or PNG")
        data = path.read_bytes()
    except OSError as error:
        raise UnusablePicture(f"cannot be read ({error.strerror or error})", "check its permissions") from None
    return decode(data, path.suffix.lower())


def decode(data: bytes, suffix: str) -> Picture:
    """Decode a file's bytes into an upright RGB picture. Raises UnusablePicture."""
    if not data:
        raise UnusablePicture("is empty (0 bytes)", "copy it again from its source")
    notes: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata which decoding survives
        image = _open(data)
        _check_size(*image.size)
        kind = "JPEG" if image.format == "MPO" else image.format  # phones add depth maps to a JPEG: still a JPEG
        if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
            notes.append(("has several frames", "only its first is used"))
        if SUFFIXES.get(suffix, kind) != kind:
            notes.append((f"is a {kind} in spite of its name", "rename it if that surprises you"))
        try:
            image.seek(0)
            image.load()
            upright = ImageOps.exif_transpose(image)
            rgb = to_rgb(upright)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, IndexError, TypeError) as error:
            raise UnusablePicture(f"is damaged ({first_line(error, 80)})", "copy it again or save it anew") from None
    return Picture(rgb, hashlib.sha256(data).hexdigest(), tuple(notes))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: alpha onto white, 16-bit scaled to 8, palettes and CMYK expanded."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def fit(image: Image.Image, side: int) -> Image.Image:
    """Crop the largest centred square and resize it to `side`: LANCZOS when it shrinks, BICUBIC when it grows."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    if edge == side:
        return image.crop(box)
    method = Image.Resampling.LANCZOS if edge > side else Image.Resampling.BICUBIC
    return image.resize((side, side), method, box=box)


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusablePicture(*_too_large()) from None
    except UnidentifiedImageError:
        start = data[:64].lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise UnusablePicture("is a web page, not a picture", "download the picture itself") from None
        if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
            raise UnusablePicture("is HEIC or AVIF, which is not read", "save it as JPEG or PNG") from None
        raise UnusablePicture("is not a picture that can be read", "save it as JPEG or PNG") from None
    except (OSError, SyntaxError, ValueError, struct.error, IndexError, TypeError) as error:
        raise UnusablePicture(f"is damaged ({first_line(error, 80)})", "copy it again or save it anew") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusablePicture(*_too_large(f"{width}x{height} pixels"))
    if min(width, height) < MIN_SIDE:
        raise UnusablePicture(f"is only {width}x{height} pixels", "use a larger picture")


def _too_large(size: str = "its header claims more") -> tuple[str, str]:
    return f"is too large ({size}; the limit is {MAX_PIXELS // 10**6} million)", "scale it down"
