"""How adapter files are named on the command line: FILE[:STRENGTH[,BLOCK=STRENGTH...]][@START-STOP]."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamtune.errors import ConfigError

TEXT = "te"
"""The text encoders as they are named on the command line."""
_BLOCK = re.compile(rf"(down|up)\.\d+|mid|{TEXT}")
"""Blocks of a UNet as they are named there, and the text encoders."""
_WINDOW = re.compile(r"(?P<start>\d*\.?\d+)-(?P<stop>\d*\.?\d+)")
Window = tuple[float, float]
"""Fractions of the denoising steps: where an adapter starts to act, and where it stops."""


def split_window(text: str) -> tuple[str, Window | None]:
    """Split the step window off FILE...[@START-STOP]; an existing file whose name is all of `text` takes precedence.

    Raises ConfigError for a window that is malformed, empty or not within 0 and 1.
    """
    name, at, window = text.rpartition("@")
    if not at or Path(text).expanduser().exists() or not parse(name)[0].exists():
        return text, None  # without a file of that name, loading it says that it is not there
    found = _WINDOW.fullmatch(window)
    start, stop = (float(found["start"]), float(found["stop"])) if found else (0.0, 0.0)
    if not 0 <= start < stop <= 1:
        raise ConfigError(f"invalid step window {window!r} of {name}: use e.g. @0.0-0.7 for the first 70% of the steps")
    return name, (start, stop)


def parse(text: str) -> tuple[Path, float, dict[str, float]]:
    """Split FILE[:STRENGTH][,BLOCK=STRENGTH...]: strength 1 if there is none; block (down.0, mid, up.1, te) -> factor.

    An existing file whose name is all of `text` takes precedence. Raises ConfigError for a strength that is not finite.
    """
    whole = Path(text).expanduser()
    name, colon, numbers = text.rpartition(":")
    if not colon or whole.exists():
        return whole, 1.0, {}
    path, strength, blocks = Path(name).expanduser(), 1.0, dict[str, float]()
    for index, item in enumerate(numbers.split(",")):
        block, equals, number = item.strip().rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and _BLOCK.fullmatch(block):
            blocks[block] = value
        elif math.isfinite(value) and not equals and not index:
            strength = value
        elif path.exists() and not math.isfinite(value):
            raise ConfigError(f"the strength {number!r} of {path} is not a number: use {name}:0.8, or just {name}")
        elif path.exists():
            raise ConfigError(
                f"invalid block strength {item!r} of {path}: use e.g. down.0=0.5, mid=0.5, up.1=0.5, or te=0.5 for the "
                "text encoders"
            )
        else:
            return whole, 1.0, {}  # a colon of the file's name; loading it says that it is not there
    return path, strength, blocks


def text_of(path: Path, told: Mapping[str, Any]) -> str:
    """The text that :func:`parse` reads as the adapter file `path` used as `told`, from :meth:`AdapterRef.to_dict`."""
    blocks = "".join(f",{block}={factor!r}" for block, factor in told.get("blocks", {}).items())
    window = "@{!r}-{!r}".format(*told["window"]) if "window" in told else ""
    return f"{path}:{told['strength']!r}{blocks}{window}"


def pattern_of(block: str) -> str:
    """Regular expression for the layer paths of a block."""
    if block == TEXT:
        return r"^text_encoder(_2)?\."
    name, _, number = block.partition(".")
    return rf"^{name}_blocks\.{number}\." if number else rf"^{name}_block\."
