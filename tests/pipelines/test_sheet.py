"""Sheets of pictures."""

import pytest
from PIL import Image

from dreamtune.pipelines.contact_sheet import PAPER, sheet

RED, BLUE = (200, 0, 0), (0, 0, 200)


def test_pictures_stand_in_rows_enlarged_in_whole_pixels() -> None:
    red, blue = Image.new("RGB", (48, 48), RED), Image.new("RGB", (48, 48), BLUE)
    page = sheet({"one": [red, blue], "two": [blue]}, ["a", "b"], "a note")
    counts = {color: count for count, color in page.getcolors(page.width * page.height) or []}
    assert counts[RED] == 192 * 192
    assert counts[BLUE] == 2 * 192 * 192
    assert counts[PAPER] > 0
    assert page.getpixel((12 + 96, 34 + 96)) == RED
    assert page.getpixel((12 + 192 + 12 + 96, 34 + 96)) == BLUE


def test_large_pictures_are_shrunk() -> None:
    assert sheet({"one": [Image.new("RGB", (1024, 1024), RED)]}).width == 12 + 256 + 12


def test_no_pictures() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        sheet({"one": []})
