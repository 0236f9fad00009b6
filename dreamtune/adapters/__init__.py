"""Adapters: small trained changes of a frozen model, which can be attached, merged, saved and detached.

>>> attached = attach(unet, LoRAConfig(rank=8), targets="attn")  # then train attached.parameters()
>>> file = AdapterFile.from_attached(attached, base="pocket", token="sks", class_word="dog", training={})
>>> file.save("dog.safetensors")
>>> AdapterFile.load("dog.safetensors").attach(unet, strength=0.8)
"""

from .attach import AttachedAdapter, attach
from .base import Adapter, MethodConfig
from .delta import Delta
from .file import AdapterFile
from .layer import AdaptedConv2d, AdaptedLayer, AdaptedLinear
from .methods import METHODS
from .targets import TARGETS, select_targets
from .together import AttachedParts
from .word import NewToken

__all__ = [
    "METHODS",
    "TARGETS",
    "AdaptedConv2d",
    "AdaptedLayer",
    "AdaptedLinear",
    "Adapter",
    "AdapterFile",
    "AttachedAdapter",
    "AttachedParts",
    "Delta",
    "MethodConfig",
    "NewToken",
    "attach",
    "select_targets",
]
