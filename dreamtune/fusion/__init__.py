"""Several adapters in one base: their changes fused into one. The maths needs torch alone."""

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
