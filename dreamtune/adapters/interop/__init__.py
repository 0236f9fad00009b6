"""Adapters of other tools: reading and writing their files, and any method as the plain LoRA that all of them know."""

from .embedding import to_embedding
from .plain import PlainLoRA, plain_lora
from .reading import Imported, read_adapter, tensor_file
from .writing import to_diffusers, to_kohya, to_peft_folder

__all__ = [
    "Imported",
    "PlainLoRA",
    "plain_lora",
    "read_adapter",
    "tensor_file",
    "to_diffusers",
    "to_embedding",
    "to_kohya",
    "to_peft_folder",
]
