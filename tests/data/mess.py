"""A folder of pictures as people have them: usable ones, and some of everything that goes wrong."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of smooth noise that no other seed looks like."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def rotated(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(seed), "JPEG", exif=exif)


def transparent(seed: int) -> bytes:
    image = noise(seed).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 20, 48))
    return encoded(image)


def sixteen_bits(seed: int) -> bytes:
    return encoded(Image.fromarray(np.asarray(noise(seed).convert("L"), np.uint16) * 257))


def animated(seed: int) -> bytes:
    return encoded(noise(seed), "GIF", save_all=True, append_images=[noise(seed + 5000)])


def _write(name: str, make: Callable[[int], bytes]) -> Callable[[Path, int], str]:
    def write(folder: Path, number: int) -> str:
        path = folder / name.format(number)
        path.write_bytes(make(10_000 + number))
        return path.name

    return write


def _unreadable(folder: Path, number: int) -> str:
    path = folder / f"secret{number}.png"
    path.write_bytes(encoded(noise(20_000 + number)))
    path.chmod(0)
    return path.name


def _loop(folder: Path, number: int) -> str:
    path = folder / f"loop{number}.jpg"
    path.symlink_to(path)
    return path.name


def _folder(folder: Path, number: int) -> str:
    (folder / f"album{number}.png").mkdir()
    return f"album{number}.png"


def _newline(folder: Path, number: int) -> str:
    """Odd names with something wrong inside, so that the name has to be printed."""
    path = folder / f"Ünï\n犬{number}.png"
    path.write_bytes(b"")
    return ascii(path.name)


def _duplicate(folder: Path, number: int) -> str:
    shutil.copy(folder / f"{number:04d}.png", folder / f"copy{number}.png")
    return f"copy{number}.png"


def _near(folder: Path, number: int) -> str:
    image = Image.open(folder / f"{number:04d}.png")
    image.resize((60, 45)).save(folder / f"near{number}.jpg", quality=85)
    return f"near{number}.jpg"


def _lonely_caption(folder: Path, number: int) -> str:
    (folder / f"lonely{number}.txt").write_text("a sks dog")
    return f"lonely{number}.txt"


def _empty_caption(folder: Path, number: int) -> str:
    (folder / f"{number:04d}.txt").write_text(" \n")
    return f"{number:04d}.txt"


def _truncated(seed: int) -> bytes:
    data = encoded(noise(seed, (400, 300)), "JPEG")
    return data[: len(data) // 2]


BROKEN: dict[str, tuple[Callable[[Path, int], str], str]] = {
    "truncated": (_write("cut{}.jpg", _truncated), "is damaged"),
    "zero bytes": (_write("empty{}.png", lambda seed: b""), "is empty"),
    "web page": (_write("page{}.jpg", lambda seed: b"<html>404</html>"), "is a web page"),
    "animated": (_write("moving{}.gif", animated), "has several frames"),
    "1x1": (_write("dot{}.png", lambda seed: encoded(Image.new("RGB", (1, 1)))), "is only 1x1"),
    "30,000x2": (_write("line{}.png", lambda seed: encoded(Image.new("RGB", (30_000, 2)))), "is only 30000x2"),
    "bomb": (_write("bomb{}.png", lambda seed: png_header(10_000, 10_000)), "is too large"),
    "unreadable": (_unreadable, "cannot be read"),
    "loop": (_loop, "is a broken link"),
    "folder": (_folder, "is a folder"),
    "odd name": (_newline, "is empty"),
    "duplicate": (_duplicate, "is a copy of"),
    "near duplicate": (_near, "looks like"),
    "lonely caption": (_lonely_caption, "matches no image"),
    "empty caption": (_empty_caption, "is empty"),
}
"""Ways to be a problem: what makes one and returns the name it is told under, and how the remark begins."""

ODD: dict[str, tuple[Callable[[Path, int], str], str]] = {
    "CMYK": (_write("print{}.jpg", lambda seed: encoded(noise(seed).convert("CMYK"), "JPEG")), "CMYK to RGB"),
    "16-bit": (_write("deep{}.png", sixteen_bits), "16-bit to 8-bit"),
    "palette": (_write("palette{}.png", lambda seed: encoded(noise(seed).quantize(64))), "palette to RGB"),
    "alpha": (_write("cutout{}.png", transparent), "laid on white"),
    "rotated": (_write("phone{}.jpg", rotated), "rotated upright"),
}
"""Ways to be odd and yet usable as it is: what makes one, and what is done to it."""

AS_ROOT = os.geteuid() == 0
"""root reads every file, whatever its permissions."""


def make_mess(folder: Path, good: int, each: int) -> tuple[dict[str, str], dict[str, str]]:
    """Write `good` plain pictures and `each` of every way to be broken or odd; return the remark and the conversion
    that is expected for each name.
    """
    folder.mkdir()
    for number in range(good):
        noise(number).save(folder / f"{number:04d}.png")
    problems = {}
    for kind, (make, begins) in BROKEN.items():
        if kind == "unreadable" and AS_ROOT:
            continue
        for number in range(each):
            # pictures of their own, so that no file has two problems
            problems[make(folder, number + each * list(BROKEN).index(kind))] = begins
    conversions = {
        make(folder, 500 + number + each * list(ODD).index(kind)): what
        for kind, (make, what) in ODD.items()
        for number in range(each)
    }
    return problems, conversions
