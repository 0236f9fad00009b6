"""A sheet of images in labeled rows, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (40, 40, 45), (250, 250, 248)
_GAP, _HEAD, _FONT = 12, 34, 18
_SMALL = 160
"""Images smaller than this are enlarged in whole pixels, others shrunk to at most _LARGE."""
_LARGE = 256


def sheet(rows: Mapping[str, Sequence[Image.Image]], columns: Sequence[str] = (), note: str = "") -> Image.Image:
    """Rows of images under their labels, with the names of the columns and a note below.

    Rows may differ in length. Raises ValueError without any image.
    """
    every = [picture for pictures in rows.values() for picture in pictures]
    if not every:
        raise ValueError("a sheet needs at least one picture")
    side = _side(every[0].width)
    width = _GAP + max(map(len, rows.values())) * (side + _GAP)
    below = [*([""] if columns else []), *([note] if note else [])]
    font = ImageFont.load_default(_FONT)
    page = Image.new("RGB", (width, len(rows) * (side + _HEAD) + _GAP + len(below) * _HEAD), PAPER)
    draw = ImageDraw.Draw(page)
    for r, (label, pictures) in enumerate(rows.items()):
        top = r * (side + _HEAD)
        draw.text((_GAP, top + 7), _fitting(label, font, width - 2 * _GAP), INK, font)
        for c, picture in enumerate(pictures):
            method = Image.Resampling.NEAREST if side >= picture.width else Image.Resampling.LANCZOS
            page.paste(picture.resize((side, side), method), (_GAP + c * (side + _GAP), top + _HEAD))
    bottom = len(rows) * (side + _HEAD) + 6
    for c, name in enumerate(columns):
        draw.text((_GAP + c * (side + _GAP), bottom), _fitting(name, font, side), INK, font)
    if note:
        draw.text((_GAP, bottom + (_HEAD if columns else 0)), _fitting(note, font, width - 2 * _GAP), INK, font)
    return page


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """As much of `text` as fits into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text} ...") > width:
        text = text[:-1]
    return f"{text.rstrip()} ..."


def _side(width: int) -> int:
    """Side on the sheet of images that are `width` pixels wide."""
    return width * -(-_SMALL // width) if width < _SMALL else min(width, _LARGE)
