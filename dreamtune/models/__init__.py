"""Base models: loading them and the few operations that training and generation need.

The parts that need torch are loaded when they are first asked for: `families` alone is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Base
    from .load import family_of, load_base

__all__ = ["Base", "family_of", "load_base"]

_MODULES = {"Base": "base", "family_of": "load", "load_base": "load"}


def __getattr__(name: str) -> Any:
    """Load a name of __all__."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
