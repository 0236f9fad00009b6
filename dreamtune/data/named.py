"""Single images that the user names: a start image or a mask."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageChops

from dreamtune.errors import ConfigError

from .images import Picture, UnusablePicture, open_picture, quiet


def named_picture(path: Path) -> Picture:
    """The picture in a file. Raises ConfigError where there is none that can be used."""
    try:
        with quiet():
            return open_picture(path)
    except UnusablePicture as fault:
        raise ConfigError(f"the image {path} {fault.args[0]}: {fault.remedy}") from None


def named_mask(path: Path) -> tuple[Image.Image, str]:
    """The mask (L) in a file, whatever its size, and the file's SHA-256; what is transparent in it is black.

    Raises ConfigError where there is none, or where it is all black.
    """
    picture = named_picture(path)
    mask = picture.image.convert("L")
    if picture.alpha is not None:  # it was laid on white
        mask = ImageChops.subtract(mask, ImageChops.invert(picture.alpha))
    if mask.getextrema()[1] == 0:
        raise ConfigError(f"the mask {path} is all black: paint the region white")
    return mask, picture.digest


def squared(image: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, `side` pixels wide and high."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + short, top + short))
