"""The registry of adapter methods. A new method is one file here and one line in METHODS."""

from __future__ import annotations

from ..base import Adapter
from .dora import DoRA
from .full import Full
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .lora_dash import LoRADash
from .orthogonal import Orthogonal
from .spectral_a import SpectralA
from .spectral_r import SpectralR

METHODS: dict[str, type[Adapter]] = {
    "lora": LoRA,
    "lora-dash": LoRADash,
    "spectral-a": SpectralA,
    "spectral-r": SpectralR,
    "dora": DoRA,
    "loha": LoHa,
    "lokr": LoKr,
    "orthogonal": Orthogonal,
    "full": Full,
}
"""Name on the command line and in files -> implementation."""

__all__ = ["METHODS"]
