"""Which layers of a model are adapted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from dreamtune.errors import ConfigError

from .layer import ADAPTABLE
from .patterns import Matcher

_PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)$"
_ATTENTION = rf"(^|\.)attn[12]\.{_PROJECTIONS}"
_FEED_FORWARD = r"(^|\.)ff\.net\.(0\.proj|2)$"
_IN_AND_OUT = r"(^|\.)attentions\.\d+\.proj_(in|out)$"
_RESNETS = r"(^|\.)resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)$|(^|\.)(down|up)samplers\.\d+\.conv$"
TARGETS = {
    "attn": _ATTENTION,
    "cross-attn": rf"(^|\.)attn2\.{_PROJECTIONS}",
    "kv": r"(^|\.)attn2\.(to_k|to_v)$",
    "text": r"(^|\.)self_attn\.(q_proj|k_proj|v_proj|out_proj)$",
    "attn+proj": f"{_ATTENTION}|{_IN_AND_OUT}",
    "attn+ff": f"{_ATTENTION}|{_FEED_FORWARD}",
    "attn+ff+proj": f"{_ATTENTION}|{_FEED_FORWARD}|{_IN_AND_OUT}",
    "all": f"{_ATTENTION}|{_FEED_FORWARD}|{_IN_AND_OUT}|{_RESNETS}",
    "none": r"(?!)",
}
"""Named choices, as patterns on layer paths: `attn` is self- and cross-attention (attn1 and attn2 in diffusers' names),
`kv` the keys and values of cross-attention alone (Kumari et al., arXiv 2212.04488), `text` the attention of a text
encoder (transformers' CLIP names), `ff` feed-forward layers, `proj` the layers into and out of a transformer, which
are convolutions with a kernel of 1x1 in SD 1.x, `none` no layer, for the training of a new word alone. `attn+ff+proj`
is what sd-scripts' LoRA changes in a UNet; `all` is what its LoCon does: the resnets' and the samplers' layers too,
but neither conv_in and conv_out nor the embeddings of time, which only LyCORIS' preset `full` adds."""


def select_targets(module: nn.Module, targets: str = "attn") -> list[str]:
    """Paths of the Linear and Conv2d layers in `module` that `targets` names, in the module's order.

    targets: a key of TARGETS, else a regular expression that is searched for in the paths. Raises ConfigError when
    it is not a valid expression or no layer matches.
    """
    matcher, pattern = Matcher("targets"), TARGETS.get(targets, targets)
    try:
        matcher.check(pattern)
    except ConfigError as error:
        raise ConfigError(f"{error}; named choices: {', '.join(TARGETS)}") from None
    layers = {path: layer for path, layer in module.named_modules() if path and isinstance(layer, ADAPTABLE)}
    if targets in TARGETS:  # grouped convolutions are refused where they are asked for by their paths
        layers = {path: it for path, it in layers.items() if not isinstance(it, nn.Conv2d) or it.groups == 1}
    paths = [path for path in layers if matcher.found(pattern, path)]
    if not paths and targets != "none":
        raise ConfigError(
            f"targets = {targets!r} matches no Linear or Conv2d layer of {type(module).__name__}: "
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
            example = f", e.g. {paths[0]}" if paths else ""
            raise ConfigError(f"{name}: {pattern!r} matches none of the {len(paths)} adapted layers{example}")
        matched.update(dict.fromkeys(found, value))
    return matched
