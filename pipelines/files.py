"""Output that is whole or absent, and places where there can be any."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamtune.errors import ConfigError, DreamtuneError
from dreamtune.storage import atomic


def check_place(folder: Path, error: type[DreamtuneError] = ConfigError) -> None:
    """Raise `error` if `folder` is a file, or can be neither written to nor made. Writes nothing."""
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise error(f"{parent} is a file, not a folder: choose another place to write to")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise error(f"cannot write to {parent}: choose another place than {folder}")


def write_png(path: Path, picture: Image.Image, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG with `texts` as its text chunks. Raises OSError."""
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_itxt(key, text)  # UTF-8; the older tEXt chunks are Latin-1
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
