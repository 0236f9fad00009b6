"""Which layers of a model are adapted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from dreamtune.errors import ConfigError

from .patterns import Matcher

_PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)$"
TARGETS = {
    "attn": rf"(^|\.)attn[12]\.{_PROJECTIONS}",
    "cross-attn": rf"(^|\.)attn2\.{_PROJECTIONS}",
    "kv": r"(^|\.)attn2\.(to_k|to_v)$",
    "text": r"(^|\.)self_attn\.(q_proj|k_proj|v_proj|out_proj)$",
    "attn+ff": rf"(^|\.)attn[12]\.{_PROJECTIONS}|(^|\.)ff\.net\.(0\.proj|2)$",
    "none": r"(?!)",
}
"""Named choices, as patterns on layer paths: `attn` is self- and cross-attention (attn1 and attn2 in diffusers' names),
`kv` the keys and values of cross-attention alone (Kumari et al., arXiv 2212.04488), `text` the attention of a text
encoder (transformers' CLIP names), `none` no layer, for the training of a new word alone."""


def select_targets(module: nn.Module, targets: str = "attn") -> list[str]:
    """Paths of the Linear layers in `module` that `targets` names, in the module's order.

    targets: a key of TARGETS, else a regular expression that is searched for in the paths. Raises ConfigError when
    it is not a valid expression or no layer matches.
    """
    matcher, pattern = Matcher("targets"), TARGETS.get(targets, targets)
    try:
        matcher.check(pattern)
    except ConfigError as error:
        raise ConfigError(f"{error}; it may also be one of {', '.join(TARGETS)}") from None
    layers = {path: layer for path, layer in module.named_modules() if path and isinstance(layer, nn.Linear)}
    paths = [path for path in layers if matcher.found(pattern, path)]
    if not paths and targets != "none":
        raise ConfigError(
            f"targets = {targets!r} matches no Linear layer of {type(module).__name__}: "
            f"use one of {', '.join(TARGETS)}, or a regular expression on its layer paths"
        )
    return paths


Value = TypeVar("Value")


def match_layers(paths: Sequence[str], values: Mapping[str, Value], name: str) -> dict[str, Value]:
    """Layer path -> the value of the last of the patterns in `values` that is found in it; other paths are left out.

    Raises ConfigError, with the setting's `name`, for a pattern that is none, takes too long or matches no path.
    """
    matched: dict[str, Value] = {}
    matcher = Matcher(name)
    for pattern, value in values.items():
        found = [path for path in paths if matcher.found(pattern, path)]
        if not found:
            example = f", for example {paths[0]}" if paths else ""
            raise ConfigError(f"{name}: {pattern!r} matches none of the {len(paths)} adapted layers{example}")
        matched.update(dict.fromkeys(found, value))
    return matched
