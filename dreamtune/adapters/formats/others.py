"""Which other model a layer belongs to, by its name, if it is not one of Stable Diffusion's."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DOUBLE, _SINGLE = r"(?:double_blocks|transformer_blocks)_(\d+)_", r"single_(?:transformer_)?blocks_(\d+)_"
_MODELS = {
    "a ControlNet": r"control_?net|zero_convs|input_hint_block",
    "Flux 2": r"to_qkv_mlp_proj|(double|single)_stream_modulation",
    "Chroma": r"distilled_guidance_layer",
    "HunyuanVideo": r"refiner_blocks|individual_token_refiner|token_refiner",
    "HiDream": r"(double|single)_stream_blocks",
    "AuraFlow": r"joint_transformer_blocks|double_layers_|single_layers_",
    "SD3": r"joint_blocks_|_x_block_|_context_block_",
    "Qwen-Image": r"transformer_blocks_\d+_(img|txt)_(mlp|mod)",
    "Flux": rf"{_DOUBLE}(img|txt)_|{_SINGLE}|guidance_in|(img|txt|vector)_in",
    "Z-Image or Lumina": r"layers_\d+_attention_|noise_refiner|context_refiner",
    "Wan": r"blocks_\d+_(cross_attn|ffn)|blocks_\d+_self_attn_[qkvo](_|$)",
    "Hunyuan-DiT": r"blocks_\d+_(attn[12]_(Wqkv|q_proj|kv_proj|out_proj))",
    "Stable Cascade": r"lora_prior_",
    "AnimateDiff": r"motion_modules?|temporal_transformer",
    "Kandinsky": r"attentions_\d+_(add_[kv]_proj|to_(q|k|v))",
    "T5, a text encoder of SD3, Flux and others": r"t5xxl|lora_te3|text_encoder_3|block_\d+_layer_|SelfAttention",
    "CLIP's image encoder": r"vision_model|image_encoder",
    "Flux, SD3 or Qwen-Image": r"transformer_blocks_\d+_attn_",
    "a DiT such as PixArt, LTX-Video or CogVideoX": r"transformer_blocks_\d+_(attn\d?_|ff_)",
    "an LLM": r"layers_\d+_(self_attn|mlp|attention|block_sparse_moe|mixer)|_h_\d+_|query_key_value|(c|gate|down)_proj",
    "BERT, ViT or another encoder": r"layer_\d+_(attention|intermediate|output)",
    "a VAE": r"first_stage_model|(encoder|decoder)_(down|up|mid)_?block",
}
"""Name of a model -> a part of the names of its layers, with _ for dots; asked in this order."""
_MODEL = [(model, re.compile(pattern)) for model, pattern in _MODELS.items()]
_LIKE_OURS = re.compile(r"(down|mid|up|input|middle|output)_blocks?_|text_model_|encoder_layers_")
"""Parts of names of Stable Diffusion's: one of them that is not known is a misspelt layer, of no model above."""
_TELL_APART = {"AnimateDiff", "Kandinsky", "Stable Cascade", "a ControlNet", "CLIP's image encoder", "a VAE"}
"""Models that have such parts in their names too."""
_FLUX_DOUBLE, _FLUX_SINGLE = 19, 38
"""Numbers of blocks. HunyuanVideo names its own alike and has 20 and 40; Flux 2 has 8 and 48."""
_HUNYUAN_SINGLE = 40


def model_of(names: Iterable[str]) -> str | None:
    """The model that the layers `names` belong to; None if unknown.

    Of layers that several models have, all of them together tell: by their number, or by others that one model has.
    """
    flat = [name.replace(".", "_") for name in names]
    for model, pattern in _MODEL:
        if any(pattern.search(name) and (model in _TELL_APART or not _LIKE_OURS.search(name)) for name in flat):
            return _by_blocks(flat) if model == "Flux" else model
    return None


def _by_blocks(names: Iterable[str]) -> str:
    """Flux, or what has more blocks of the same names."""
    double = single = 0
    for name in names:
        if match := re.search(_SINGLE, name):
            single = max(single, int(match[1][:4]) + 1)
        elif match := re.search(_DOUBLE, name):
            double = max(double, int(match[1][:4]) + 1)
    if single > _HUNYUAN_SINGLE:
        return "Flux 2"
    return "HunyuanVideo" if double > _FLUX_DOUBLE or single > _FLUX_SINGLE else "Flux"
