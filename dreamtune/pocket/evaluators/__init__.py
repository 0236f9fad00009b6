"""Encoders that judge pictures of the pocket world: what is shown, which individual it is, does it fit a text.

They were trained on renders only (half of them after a round trip through the VAE) and never see an adapter.
"""

from __future__ import annotations

from . import reading
from .evaluators import Evaluators
from .reading import Found, Reading

__all__ = ["Evaluators", "Found", "Reading"]


def __getattr__(name: str) -> object:
    """Load torch only when an evaluator is asked for."""
    if name == "Evaluators":
        return Evaluators
    if name in ("Found", "Reading"):
        return getattr(reading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
