"""Files that a page or a client has uploaded: only what lies in the upload folder counts as such."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreamtune.errors import ConfigError

from .context import App

PICTURE_TYPES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".heif", ".txt"]
ADAPTER_TYPES = [".safetensors"]


def uploaded(app: App, files: Sequence[str] | None) -> list[tuple[str, Path]]:
    """(name as it was sent, where it lies) of each. Raises ConfigError for a path that is no upload."""
    return [(Path(file).name, upload(app, file)) for file in files or ()]


def upload(app: App, file: str) -> Path:
    """One of them. A link, a folder, or anything outside the upload folder is refused."""
    if "\0" not in str(file):
        path = Path(file)
        if path.is_absolute() and path.resolve().is_relative_to(app.workspace.uploads) and path.is_file():
            return path.resolve()
    raise ConfigError(f"{Path(str(file)).name[:80]!r} was not uploaded here: upload it first")
