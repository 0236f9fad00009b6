"""Layer names of other tools, and their tensor names, to and from those of adapter files.

The names are regular, so that they are taken apart by rule, not looked up: no model is needed.
"""

from __future__ import annotations

import re

from dreamtune.errors import ConfigError

from ..parts import TEXT_ENCODERS, UNET, join_part, split_part

_WORD = re.compile(
    r"(?:down_blocks|mid_block|up_blocks|transformer_blocks|time_embedding|add_embedding|time_emb_proj|linear_[12]"
    r"|proj_(?:in|out)|to_(?:q|k|v|out)|self_attn|(?:q|k|v|out)_proj|text_model|[a-z]+\d*|\d+)(?=_|$)"
)
"""The pieces of paths in diffusers' UNets and transformers' CLIP, with _ between them for the dots."""
_KNOWN_START = re.compile(r"(down_blocks|up_blocks)\.\d+\.|mid_block\.|time_embedding\.|add_embedding\.")
_TEXT_START = re.compile(r"encoder\.layers\.\d+\.")
_KOHYA_PREFIXES = {
    "lora_unet_": UNET,
    "lycoris_": UNET,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_LAYERS_PER_BLOCK = 2
"""In the UNets whose layers have names of the original Stable Diffusion: 1.x, 2.x and XL."""
_OUTSIDE_BLOCKS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
"""diffusers' path of a linear layer of a UNet -> the original's."""

_ROLES = {
    "down": r"(?:\.lora_down|\.lora_A|\.lora_A\.default|[._]lora\.down|\.lora_linear_layer\.down)\.weight",
    "up": r"(?:\.lora_up|\.lora_B|\.lora_B\.default|[._]lora\.up|\.lora_linear_layer\.up)\.weight",
    "magnitude": r"\.dora_scale|\.lora_magnitude_vector(?:\.default)?(?:\.weight)?",
    "alpha": r"\.alpha",
    "up1": r"\.hada_w1_a",
    "down1": r"\.hada_w1_b",
    "up2": r"\.hada_w2_a",
    "down2": r"\.hada_w2_b",
    "w1": r"\.lokr_w1",
    "lokr_up1": r"\.lokr_w1_a",
    "lokr_down1": r"\.lokr_w1_b",
    "w2": r"\.lokr_w2",
    "lokr_up2": r"\.lokr_w2_a",
    "lokr_down2": r"\.lokr_w2_b",
    "kernel": r"\.lora_mid\.weight|\.hada_t[12]|\.lokr_t[12]",
}
"""What a tensor is -> endings of its name."""
_ENDING = re.compile("|".join(f"(?P<{role}>(?:{pattern})$)" for role, pattern in _ROLES.items()))


def split_tensor_name(name: str) -> tuple[str, str] | None:
    """The layer's name in the file, and what the tensor is to it; None for a tensor of no known kind.

    Kinds are the names of our own tensors (LoKr's factors with `lokr_` before them), `alpha`, and `kernel` for the
    third factor that only convolutions have.
    """
    match = _ENDING.search(name)
    return (name[: match.start()], str(match.lastgroup)) if match else None


def layer_path(name: str) -> str | None:
    """Path in an adapter file of the layer that another tool calls `name`; None if it is none of Stable Diffusion's.

    Known are kohya's names, with _ for dots, in diffusers' or the original naming (`input_blocks_1_1_...`), paths of
    PEFT and diffusers with their prefixes, and ComfyUI's paths in the original naming. Without a prefix a text
    encoder's layer counts as one of the first.
    """
    for prefix, part in _KOHYA_PREFIXES.items():
        if name.startswith(prefix):
            return _checked(part, _dotted(_modern(name.removeprefix(prefix))))
    name = name.removeprefix("base_model.model.")
    if name.startswith("diffusion_model."):
        return _checked(UNET, _dotted(_modern(name.removeprefix("diffusion_model.").replace(".", "_"))))
    part, _, path = name.partition(".")
    if part not in (UNET, *TEXT_ENCODERS):  # PEFT's own files do not say which model they are of
        part, path = (TEXT_ENCODERS[0] if _TEXT_START.match(name.removeprefix("text_model.")) else UNET), name
    path = path.replace(".processor.", ".")  # of diffusers before 0.22, which also said to_out for to_out.0, and
    if part in TEXT_ENCODERS:  # to_q for q_proj
        path = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path)
    else:
        path = re.sub(r"\.to_out$", ".to_out.0", path)
    return join_part(part, path)


def _checked(part: str, path: str | None) -> str | None:
    if path is None:
        return None
    path = join_part(part, path)
    start = _KNOWN_START if part == UNET else _TEXT_START
    return path if start.match(split_part(path)[1]) else None


def _dotted(name: str) -> str | None:
    """Undo the replacement of dots by _."""
    pieces = _WORD.findall(name)
    return ".".join(pieces) if "_".join(pieces) == name else None


def _modern(name: str) -> str:
    """The form with _ of diffusers' path for a name of the original UNet; other names as they are."""
    fixed = {original.replace(".", "_"): path.replace(".", "_") for path, original in _OUTSIDE_BLOCKS.items()}
    if name in fixed:
        return fixed[name]
    match = re.match(r"(?:(input|output)_blocks_(\d+)|middle_block)_(\d+)_(.+)$", name)
    if match is None:
        return name
    side, number, inner, rest = match.groups()
    kind = "attentions" if rest.startswith(("proj_", "transformer_blocks_")) else "resnets"
    rest = "time_emb_proj" if rest == "emb_layers_1" else rest
    if side is None:
        return f"mid_block_{kind}_{int(inner) // 2}_{rest}"
    block, index = divmod(int(number) - (side == "input"), _LAYERS_PER_BLOCK + 1)
    return f"{'down' if side == 'input' else 'up'}_blocks_{block}_{kind}_{index}_{rest}"


def kohya_name(path: str, xl: bool) -> str:
    """Name in kohya's files of a layer of an adapter file.

    xl: for SDXL, whose text encoders are numbered, and whose UNet's layers have their original names: sd-scripts finds
    them under no others. Raises ConfigError for a layer that has none.
    """
    part, inner = split_part(path)
    if part != UNET:
        number = TEXT_ENCODERS.index(part) + 1 if xl else ""
        return f"lora_te{number}_text_model_{inner.replace('.', '_')}"
    name = _original(inner, _LAYERS_PER_BLOCK) if xl else inner
    if name is None:
        raise ConfigError(f"kohya has no name for the layer {path} of an SDXL base: use the format lora or peft")
    return f"lora_unet_{name.replace('.', '_')}"


def original_name(path: str, layers_per_block: int, xl: bool) -> str | None:
    """Name of a linear layer in a single-file checkpoint of Stable Diffusion; None for other layers.

    layers_per_block: of the UNet; xl: whether it is SDXL. Of text encoders those of SD 1.x and the first of SDXL are
    known, whose checkpoints keep CLIP's own names.
    """
    part, inner = split_part(path)
    if part == TEXT_ENCODERS[0]:
        return f"{'conditioner.embedders.0' if xl else 'cond_stage_model'}.transformer.text_model.{inner}"
    name = _original(inner, layers_per_block) if part == UNET else None
    return None if name is None else f"model.diffusion_model.{name}"


def _original(path: str, layers_per_block: int) -> str | None:
    """The original's path of a linear layer of a UNet."""
    if path in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[path]
    match = re.match(
        r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(?:attentions\.(\d+)\.(.+)|resnets\.(\d+)\.time_emb_proj)$", path
    )
    if match is None:
        return None
    side, block, attention, rest, resnet = match.groups()
    # each of the original's blocks begins with a resnet, and the attention comes second
    index, inner, rest = (int(resnet), 0, "emb_layers.1") if rest is None else (int(attention), 1, rest)
    if side is None:
        return f"middle_block.{2 * index + inner}.{rest}"
    if index >= layers_per_block + (side == "up"):  # no such design: the name would be another layer's
        return None
    number = int(block) * (layers_per_block + 1) + index
    return f"{f'input_blocks.{number + 1}' if side == 'down' else f'output_blocks.{number}'}.{inner}.{rest}"
