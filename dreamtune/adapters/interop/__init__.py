"""Adapters of other tools: reading their files, and any method as the plain LoRA that all of them know."""

from .plain import PlainLoRA, plain_lora
from .reading import Imported, read_adapter

__all__ = ["Imported", "PlainLoRA", "plain_lora", "read_adapter"]
