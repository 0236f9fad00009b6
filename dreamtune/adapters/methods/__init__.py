"""The registry of adapter methods. A new method is one file here and one line in METHODS."""

from __future__ import annotations

from ..base import Adapter
from .lora import LoRA

METHODS: dict[str, type[Adapter]] = {
    "lora": LoRA,
}
"""Name on the command line and in files -> implementation."""

__all__ = ["METHODS"]
