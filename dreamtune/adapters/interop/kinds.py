"""What the tensors of other tools' files are, by the endings of their names."""

from __future__ import annotations

import re

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
