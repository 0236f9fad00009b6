"""What the tensors of other tools' files are, by their names: factors, things beside them, methods not known here."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ADAPTER = r"(?:\.[^.]+)?"
"""The name that PEFT gives an adapter; states of whole models have it in every tensor's name."""
_ROLES = {
    "down": rf"(?:\.lora_down|\.lora_A{_ADAPTER}|[._]lora\.down|\.lora_linear_layer\.down)\.weight",
    "up": rf"(?:\.lora_up|\.lora_B{_ADAPTER}|[._]lora\.up|\.lora_linear_layer\.up)\.weight",
    "mid": r"\.lora_mid\.weight",
    "magnitude": r"\.dora_scale",
    "peft_magnitude": r"\.lora_magnitude_vector(?:\.[^.]+){0,2}",
    "alpha": r"\.alpha",
    "up1": rf"\.hada_w1_a{_ADAPTER}",
    "down1": rf"\.hada_w1_b{_ADAPTER}",
    "mid1": rf"\.hada_t1{_ADAPTER}",
    "up2": rf"\.hada_w2_a{_ADAPTER}",
    "down2": rf"\.hada_w2_b{_ADAPTER}",
    "mid2": rf"\.hada_t2{_ADAPTER}",
    "w1": rf"\.lokr_w1{_ADAPTER}",
    "lokr_up1": rf"\.lokr_w1_a{_ADAPTER}",
    "lokr_down1": rf"\.lokr_w1_b{_ADAPTER}",
    "lokr_mid1": rf"\.lokr_t1{_ADAPTER}",
    "w2": rf"\.lokr_w2{_ADAPTER}",
    "lokr_up2": rf"\.lokr_w2_a{_ADAPTER}",
    "lokr_down2": rf"\.lokr_w2_b{_ADAPTER}",
    "lokr_mid2": rf"\.lokr_t2{_ADAPTER}",
    "change": r"\.diff",
}
"""What a tensor is -> endings of its name."""
_ENDING = re.compile("|".join(f"(?P<{role}>(?:{pattern})$)" for role, pattern in _ROLES.items()))
_BESIDE = {
    "norms": re.compile(r"\.[wb]_norm$|norm[^.]*\.(weight|bias|diff|diff_b|set_weight)$"),
    "biases": re.compile(r"\.(diff_b|bias)$"),
    "vocabulary embeddings": re.compile(r"\.lora_embedding_[AB]\b|(token|position)_embedding\.[^.]*$"),
    "base weights": re.compile(r"\.base_layer\.weight$"),
    "whole layers": re.compile(r"\.modules_to_save\."),
}
"""What may stand beside an adapter and changes what it does little, or not at all -> names of such tensors."""
_METHODS = {
    "BOFT": r"\.boft_",
    "OFT": r"\.oft_|^oft_",
    "GLoRA": r"\.[ab][12]\.weight$|\.bm\.weight$|\.glora_",
    "IA3": r"\.on_input$|\.ia3_",
    "DyLoRA": r"\.(up|down)_list\.|\.lora_[AB]\.\d+$",
    "T-LoRA": r"\.(lambda_layer|[pq]_layer\.weight)$",
    "ControlNet-LLLite": r"^lllite_",
    "AdaLoRA": r"\.lora_E\b|\.ranknum\b",
    "VB-LoRA": r"vblora_",
    "PVeRA": r"pvera_",
    "VeRA": r"vera_",
    "LN tuning": r"ln_tuning_",
    "RandLoRA": r"randlora_",
    "SHiRA": r"shira_",
    "MiSS": r"\.miss_",
    "Bone": r"\.bone_",
    "X-LoRA": r"xlora_",
    "trainable tokens": r"trainable_tokens_",
    "prompt or prefix tuning": r"prompt_embeddings|^prompt_encoder|^prefix_|adaption_(prompt|gate)",
} | {
    name: rf"\.{name.lower()}_"
    for name in (
        *(
            "FourierFT",
            "GraLoRA",
            "HiRA",
            "HRA",
            "Lily",
            "OSF",
            "Poly",
            "PSOFT",
            "RoAd",
            "TinyLoRA",
            "UniLoRA",
            "WaveFT",
        ),
        *("DeLoRA", "DEFT", "FRoD", "BEFT", "AdaMSS", "PEANuT", "Shadow", "SuperTuning", "Cartridge", "C3A"),
    )
}
"""Method that cannot be read -> names of its tensors."""
_METHOD = [(name, re.compile(pattern)) for name, pattern in _METHODS.items()]
_INVERSION = re.compile(r"^(emb_params|clip_[lgh]|string_to_param\.\*|<.+>|text_encoders_\d)$")
_WHOLE_MODEL = re.compile(
    r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.|^(down|up|encoder\.down|decoder\.up)"
    r"(_blocks)?\.0\.|^(conv_in|encoder\.conv_in|time_embedding\.linear_1|text_model\.embeddings)\b.*\.weight$"
)


def split_tensor_name(name: str) -> tuple[str, str] | None:
    """The layer's name in the file, and what the tensor is to it; None for a tensor of no known kind.

    Kinds are the names of our own tensors (LoKr's factors with `lokr_` before them), `alpha`, `peft_magnitude` for a
    magnitude as PEFT keeps it, and `mid`, `mid1`, `lokr_mid2` and so on for the third factors of convolutions.
    """
    match = _ENDING.search(name)
    return (name[: match.start()], str(match.lastgroup)) if match else None


def beside(name: str) -> str | None:
    """What kind of thing the tensor `name` is if it may be left out beside an adapter, in plural; else None."""
    return next((kind for kind, pattern in _BESIDE.items() if pattern.search(name)), None)


def foreign_method(names: Iterable[str]) -> str | None:
    """The method that the first of the tensors `names` to tell it is of, if it is one that cannot be read."""
    return next((method for name in names for method, pattern in _METHOD if pattern.search(name)), None)


def other_content(names: Iterable[str]) -> str | None:
    """What a file that is not an adapter contains, and what to do with it; None if unknown."""
    names = list(names)
    if names and all(_INVERSION.search(name) for name in names):
        return "is a textual inversion embedding, not an adapter: use a tool that supports it"
    if any(_WHOLE_MODEL.search(name) for name in names):
        return "is a complete model, not an adapter: use it as --base"
    return None
