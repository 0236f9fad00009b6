"""Fusion: the changes of several adapters merged into one. The math needs only torch."""

from .columns import Block, Columns
from .files import Fused, as_file
from .layers import FusionOptions, WeightedAdapter, changes, common_layers, content_digest, fuse_layers, weighted
from .methods import FUSIONS
from .moments import Inputs, Moments, recorded

__all__ = [
    "FUSIONS",
    "Block",
    "Columns",
    "Fused",
    "FusionOptions",
    "Inputs",
    "Moments",
    "WeightedAdapter",
    "as_file",
    "changes",
    "common_layers",
    "content_digest",
    "fuse_layers",
    "recorded",
    "weighted",
]
