"""Base models: loading them and the few operations that training and generation need."""

from .base import Base
from .load import family_of, load_base

__all__ = ["Base", "family_of", "load_base"]
