"""Folders of pictures as people have them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.cases.case import Case, check, picture, reads


def _with_masks(*names: str) -> Callable[[Path], list[str]]:
    """Two pictures, and a mask of each under the names given."""

    def make(folder: Path) -> list[str]:
        for number, name in enumerate(names):
            picture(folder / f"{number}.jpg", number)
            mask = np.zeros((96, 96), "uint8")
            mask[20:70, 10 * number + 10 : 60] = 255
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / name)
        return check(folder)

    return make


def _two_masked(found: dict[str, Any]) -> bool:
    return [one["masked"] for one in found["pictures"]] == [True, True]


def _told(found: dict[str, Any], *words: str) -> bool:
    """One remark, at least, has all the words."""
    return any(all(word in f"{it['file']} {it['problem']}" for word in words) for it in found["remarks"])


def _same_stem(folder: Path) -> list[str]:
    picture(folder / "1.jpg", 3)
    picture(folder / "1.png", 4)
    (folder / "1.txt").write_text("a sks dog on grass")
    return check(folder)


def _words(folder: Path) -> list[str]:
    for number, text in enumerate(("a photo of SKS dog", "a man asks something", "flasks on a table", "a sks dog")):
        picture(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(text)
    return check(folder)


def _accents(folder: Path) -> list[str]:
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    picture(folder / (unicodedata.normalize("NFD", name) + ".jpg"), 5)
    (folder / (unicodedata.normalize("NFC", name) + ".txt")).write_text("a sks dog in a room")
    return check(folder)


def _without_token(found: dict[str, Any]) -> bool:
    """Of the four captions just those that do not have the word."""
    return {it["file"] for it in found["remarks"] if "sks" in it["problem"]} == {"1.txt", "2.txt"}


def _captioned(found: dict[str, Any]) -> bool:
    return [it["captions"] for it in found["pictures"]] == [["a sks dog in a room"]]


_BOTH = "2 pictures, both with a mask"
CASES = [
    Case("masks of two tools", _BOTH, _with_masks("0-masklabel.png", "1_mask.png"), reads(_two_masked)),
    Case("a folder masks", _BOTH, _with_masks("masks/0.png", "masks/1.png"), reads(_two_masked)),
    Case("our own masks", _BOTH, _with_masks("0.mask.png", "1.mask.png"), reads(_two_masked)),
    Case("two pictures of one stem", "a remark", _same_stem, reads(lambda found: _told(found, "1.jpg", "1.png"))),
    Case("SKS, asks and flasks", "a remark on asks and flasks alone", _words, reads(_without_token)),
    Case("a name in two Unicode forms", "the caption is the picture's", _accents, reads(_captioned)),
]
