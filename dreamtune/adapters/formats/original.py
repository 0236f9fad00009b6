"""Layers of a UNet in the naming of the original Stable Diffusion, to and from diffusers' paths.

The names are regular, so that they are taken apart by rule, not looked up: no model is needed.
"""

from __future__ import annotations

import re

LAYERS_PER_BLOCK = 2
"""In the UNets whose layers have names of the original Stable Diffusion: 1.x, 2.x and XL."""
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNETS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "time_emb_proj": "emb_layers.1",
}
"""diffusers' path of a layer -> the original's."""


def _flat(path: str) -> str:
    return path.replace(".", "_")


_FLAT_OUTSIDE = {_flat(original): path for path, original in _OUTSIDE_BLOCKS.items()}
_FLAT_IN_RESNETS = {_flat(original): path for path, original in _IN_RESNETS.items()}
_FLAT_NAME = re.compile(r"(?:(input|output)_blocks_(\d{1,3})|middle_block)_(\d)_(.+)")
_PATH = re.compile(
    r"(?:(?P<side>down|up)_blocks\.(?P<block>\d+)|mid_block)\."
    r"(?:attentions\.(?P<attention>\d+)\.(?P<rest>.+)"
    r"|resnets\.(?P<resnet>\d+)\.(?P<layer>conv1|conv2|conv_shortcut|time_emb_proj)"
    r"|(?P<sampler>down|up)samplers\.0\.conv)"
)


def original(path: str, layers_per_block: int, xl: bool) -> str | None:
    """The original's path of a layer of a UNet of SD 1.x or 2.x, or of XL; None for what it has no name for."""
    if path in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[path]
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    side, sampler = match["side"], match["sampler"]
    block = int(match["block"] or 0)
    if sampler is not None:
        return _original_sampler(block, layers_per_block, xl, side) if sampler == side else None
    # each of the original's blocks begins with a resnet, and the attention comes second
    if match["attention"] is None:
        index, inner, rest = int(match["resnet"]), 0, _IN_RESNETS[match["layer"]]
    else:
        index, inner, rest = int(match["attention"]), 1, match["rest"]
    if side is None:
        return f"middle_block.{2 * index + inner}.{rest}"
    if index >= layers_per_block + (side == "up"):  # no such design: the name would be another layer's
        return None
    number = block * (layers_per_block + 1) + index
    return f"{f'input_blocks.{number + 1}' if side == 'down' else f'output_blocks.{number}'}.{inner}.{rest}"


def _original_sampler(block: int, layers_per_block: int, xl: bool, side: str) -> str:
    """The down-sampler has a number of its own; the up-sampler comes last in the last of its block."""
    last = (block + 1) * (layers_per_block + 1)
    if side == "down":
        return f"input_blocks.{last}.0.op"
    return f"output_blocks.{last - 1}.{2 if xl or block else 1}.conv"  # SD 1.x and 2.x have no attention in the first


def modern(name: str) -> str | None:
    """The path in diffusers for an original name with _ for dots; None if it is none of the original's.

    What follows the number of an attention is kept as it is, with _ for dots.
    """
    if name in _FLAT_OUTSIDE:
        return _FLAT_OUTSIDE[name]
    match = _FLAT_NAME.fullmatch(name)
    if match is None:
        return None
    side, number, inner, rest = match[1], int(match[2] or 0), int(match[3]), match[4]
    attends = rest.startswith(("proj_", "transformer_blocks_"))
    layer = rest if attends else _FLAT_IN_RESNETS.get(rest)
    kind = "attentions" if attends else "resnets"
    if side is None:
        right = layer is not None and inner % 2 == attends
        return f"mid_block.{kind}.{inner // 2}.{layer}" if right else None
    block, index = divmod(number - (side == "input"), LAYERS_PER_BLOCK + 1)
    if index == LAYERS_PER_BLOCK and (side, rest) in {("input", "op"), ("output", "conv")}:
        right = inner == 0 if side == "input" else inner in (1, 2)
        way = "down" if side == "input" else "up"
        return f"{way}_blocks.{block}.{way}samplers.0.conv" if right else None
    if (
        layer is None
        or inner != attends
        or index >= LAYERS_PER_BLOCK + (side == "output")
        or number < (side == "input")
    ):
        return None
    return f"{'down' if side == 'input' else 'up'}_blocks.{block}.{kind}.{index}.{layer}"
