"""Several adapters in one base: their changes fused into one. The maths needs torch alone."""

from .columns import Block, Columns
from .delta import Delta
from .files import Fused, FusionOptions, Ingredient, as_file, common_layers, fuse_layers, weighted
from .methods import FUSIONS, THINNED

__all__ = [
    "FUSIONS",
    "THINNED",
    "Block",
    "Columns",
    "Delta",
    "Fused",
    "FusionOptions",
    "Ingredient",
    "as_file",
    "common_layers",
    "fuse_layers",
    "weighted",
]
