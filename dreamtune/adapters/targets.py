"""Which layers of a model are adapted."""

from __future__ import annotations

import re

from torch import nn

from dreamtune.errors import ConfigError

_PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)$"
TARGETS = {
    "attn": rf"(^|\.)attn[12]\.{_PROJECTIONS}",
    "cross-attn": rf"(^|\.)attn2\.{_PROJECTIONS}",
    "kv": r"(^|\.)attn2\.(to_k|to_v)$",
    "attn+ff": rf"(^|\.)attn[12]\.{_PROJECTIONS}|(^|\.)ff\.net\.(0\.proj|2)$",
}
"""Named choices, as patterns on layer paths: `attn` is self- and cross-attention (attn1 and attn2 in diffusers' names),
`kv` the keys and values of cross-attention alone (Kumari et al., arXiv 2212.04488)."""


def select_targets(module: nn.Module, targets: str = "attn") -> list[str]:
    """Paths of the Linear layers in `module` that `targets` names, in the module's order.

    targets: a key of TARGETS, else a regular expression that is searched for in the paths. Raises ConfigError when
    it is not a valid expression or no layer matches.
    """
    try:
        pattern = re.compile(TARGETS.get(targets, targets))
    except re.error as error:
        raise ConfigError(
            f"targets = {targets!r} is neither one of {', '.join(TARGETS)} nor a valid regular expression ({error})"
        ) from None
    layers = {path: layer for path, layer in module.named_modules() if path and isinstance(layer, nn.Linear)}
    paths = [path for path in layers if pattern.search(path)]
    if not paths:
        raise ConfigError(
            f"targets = {targets!r} matches no Linear layer of {type(module).__name__}: "
            f"use one of {', '.join(TARGETS)}, or a regular expression on its layer paths"
        )
    return paths
