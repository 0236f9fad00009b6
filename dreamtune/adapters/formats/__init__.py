"""Adapters of other tools: reading and writing their files, and any method as the plain LoRA that all of them know."""

from .embedding import bundle_embeddings, to_embedding
from .kohya import KOHYA, to_kohya
from .limits import limits
from .plain import PlainLoRA, plain_lora
from .reading import Imported, read_adapter
from .sources import tensor_file
from .writing import PEFT, to_diffusers, to_peft_folder

__all__ = [
    "KOHYA",
    "PEFT",
    "Imported",
    "PlainLoRA",
    "bundle_embeddings",
    "limits",
    "plain_lora",
    "read_adapter",
    "tensor_file",
    "to_diffusers",
    "to_embedding",
    "to_kohya",
    "to_peft_folder",
]
