"""Layer names of other tools, to and from paths in adapter files.

A name is read in one way whichever tool wrote it: dots count as _, wrappers and prefixes of parts are taken off, and
what is left must be a layer of a UNet or of CLIP, in diffusers' and transformers' naming or in the original's.
"""

from __future__ import annotations

import re

from dreamtune.errors import ConfigError

from ..parts import TEXT_ENCODERS, UNET, join_part, split_part
from .original import LAYERS_PER_BLOCK, modern, original

_PREFIXES = {
    "base_model_model_": None,  # PEFT
    "module_": None,  # PyTorch's parallel training
    "model_diffusion_model_": UNET,  # a single-file checkpoint
    "diffusion_model_": UNET,  # ComfyUI
    "unet_": UNET,  # diffusers
    "text_encoder_": TEXT_ENCODERS[0],
    "text_encoder_2_": TEXT_ENCODERS[1],
    "lora_unet_": UNET,  # kohya
    "lora_te_": TEXT_ENCODERS[0],
    "lora_te1_": TEXT_ENCODERS[0],
    "lora_te2_": TEXT_ENCODERS[1],
    "lycoris_": None,
    "text_encoders_": None,  # ComfyUI
    "clip_l_": TEXT_ENCODERS[0],
    "clip_h_": TEXT_ENCODERS[0],  # of SD 2.x
    "clip_g_": TEXT_ENCODERS[1],
    "cond_stage_model_": TEXT_ENCODERS[0],  # a single-file checkpoint
    "conditioner_embedders_0_": TEXT_ENCODERS[0],
}
"""How names begin, in any order and as often as they like -> the part that they then are of, if that tells it."""
_LONGEST_FIRST = sorted(_PREFIXES, key=len, reverse=True)
_COMPILED = "_orig_mod_"
"""Of torch.compile, anywhere in a name."""
_WORD = re.compile(
    r"(?:down_blocks|mid_block|up_blocks|transformer_blocks|(?:time|add|class)_embedding|time_emb_proj|linear_[12]"
    r"|conv_(?:in|out|shortcut)|proj_(?:in|out)|cond_proj|to_(?:q|k|v|out)|self_attn|(?:q|k|v|out)_proj|[a-z]+\d*|\d+)"
    r"(?=_|$)"
)
"""The pieces of paths in diffusers' UNets and transformers' CLIP, with _ between them for the dots."""
_ATTENTION = (
    r"attentions\.\d{1,2}\.(?:proj_in|proj_out|transformer_blocks\.\d{1,2}\."
    r"(?:attn[12]\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2)))"
)
_RESNET = r"resnets\.\d{1,2}\.(?:conv1|conv2|conv_shortcut|time_emb_proj)"
_LAYERS = {
    UNET: re.compile(
        rf"(?:(?:(?:down|up)_blocks\.\d{{1,2}}|mid_block)\.(?:{_ATTENTION}|{_RESNET})"
        r"|(down|up)_blocks\.\d{1,2}\.\1samplers\.0\.conv"
        r"|conv_in|conv_out|(?:time|add|class)_embedding\.linear_[12]|time_embedding\.cond_proj)"
    ),
    TEXT_ENCODERS[0]: re.compile(r"encoder\.layers\.\d{1,2}\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"),
}
_LAYERS[TEXT_ENCODERS[1]] = _LAYERS[TEXT_ENCODERS[0]]
"""All layers with a matrix or a convolution that a part can have."""
_POOLED = re.compile(r"(?:transformer_)?(?:text_model_)?text_projection")


def layer_path(name: str) -> str | None:
    """Path in an adapter file of the layer that another tool calls `name`; None if it is none of Stable Diffusion's.

    Without a prefix a text encoder's layer counts as one of the first.
    """
    part, rest = _unwrapped(name)
    for candidate in (part,) if part else (UNET, TEXT_ENCODERS[0]):
        path = _unet_path(rest) if candidate == UNET else _text_path(rest)
        if path and _LAYERS[candidate].fullmatch(path):
            return join_part(candidate, path)
    return None


def is_pooled_projection(name: str) -> bool:
    """Whether `name` is the projection of a text encoder's pooled state."""
    return bool(_POOLED.fullmatch(_unwrapped(name)[1]))


def _unwrapped(name: str) -> tuple[str | None, str]:
    """The part that `name` says it is of, and the rest of the name with _ for dots."""
    rest = name.replace(".", "_").replace(_COMPILED, "")
    part: str | None = None
    while prefix := next((prefix for prefix in _LONGEST_FIRST if rest.startswith(prefix)), None):
        said = _PREFIXES[prefix]
        if said and part and said != part:
            break
        part, rest = said or part, rest.removeprefix(prefix)
    return part, rest


def _unet_path(name: str) -> str | None:
    name = (modern(name) or name).replace(".", "_").replace("_processor_", "_")  # diffusers before 0.22, which also
    return _dotted(re.sub(r"_to_out$", "_to_out_0", name))  # said to_out for to_out.0


def _text_path(name: str) -> str | None:
    name = name.removeprefix("transformer_text_model_").removeprefix("text_model_")
    return _dotted(re.sub(r"_to_(q|k|v|out)$", r"_\1_proj", name))  # diffusers before 0.22


def _dotted(name: str) -> str | None:
    """Undo the replacement of dots by _."""
    pieces = _WORD.findall(name)
    return ".".join(pieces) if "_".join(pieces) == name else None


def kohya_name(path: str, xl: bool) -> str:
    """Name in kohya's files of a layer of an adapter file.

    xl: for SDXL, whose text encoders are numbered, and whose UNet's layers have their original names: sd-scripts finds
    them under no others. Raises ConfigError for a layer that has none.
    """
    part, inner = split_part(path)
    if part != UNET:
        number = TEXT_ENCODERS.index(part) + 1 if xl else ""
        return f"lora_te{number}_text_model_{inner.replace('.', '_')}"
    name = original(inner, LAYERS_PER_BLOCK, xl) if xl else inner
    if name is None:
        raise ConfigError(f"kohya has no name for the SDXL layer {path}: use the format lora or peft")
    return f"lora_unet_{name.replace('.', '_')}"


def original_name(path: str, layers_per_block: int, xl: bool) -> str | None:
    """Name of a layer with a weight in a single-file checkpoint of Stable Diffusion; None for other layers.

    layers_per_block: of the UNet; xl: whether it is SDXL. Of text encoders those of SD 1.x and the first of SDXL are
    known, whose checkpoints keep CLIP's own names.
    """
    part, inner = split_part(path)
    if part == TEXT_ENCODERS[0]:
        return f"{'conditioner.embedders.0' if xl else 'cond_stage_model'}.transformer.text_model.{inner}"
    name = original(inner, layers_per_block, xl) if part == UNET else None
    return None if name is None else f"model.diffusion_model.{name}"
