"""Fusion of keys and values as in Custom Diffusion (Kumari et al., arXiv 2212.04488, section 3.2), for one layer.

The paper looks for the W that changes least what the base does to captions without a subject, and does to the words
of each subject's own captions what its adapter does: min ‖(W - W0) C_regᵀ‖ subject to W Cᵀ = V, where the rows of C are
the text features of all subjects' words and those of V what each W0 + ΔWᵢ makes of its own. Its solution is

    W = W0 + vᵀ d,   d = C (C_regᵀ C_reg)⁻¹,   vᵀ = (V - W0 Cᵀ)(d Cᵀ)⁻¹.

With a ridge ρ the constraints may give way, as they must where two subjects want different things of one word, and
all of it is said by second moments: with Cᵢ those of the subjects and R that of the captions,
ΔW = Σ λᵢ ΔWᵢ Cᵢ · (Σ Cᵢ + ρ R)⁻¹. For ρ → 0 that is the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreamtune.adapters.delta import Delta
from dreamtune.errors import ConfigError

from .gradient import solved
from .layer_deltas import LayerDelta

RIDGE = 1e-3
"""ρ: how much the captions count beside the subjects."""
_FLOOR = 1e-2
"""Of the mean of R's eigenvalues, added to all: fewer captions than features leave directions without any."""


@torch.no_grad()
def fuse_custom_diffusion(parts: Sequence[LayerDelta], density: float) -> Delta:
    """ΔW that does to each subject's words what its adapter does, and least to captions without a subject.

    Raises ConfigError for several parts without inputs or captions.
    """
    if len(parts) == 1:
        return parts[0].weighted
    moments = [part.moment for part in parts]
    if parts[0].kept is None:
        raise ConfigError(
            "this fusion needs inputs recorded with captions unrelated to any subject: pass inputs with them"
        )
    kept = parts[0].kept.double()
    floor = _FLOOR * max(float(kept.diagonal().mean()), torch.finfo(torch.float32).tiny)
    kept = kept + floor * torch.eye(len(kept), dtype=kept.dtype)
    return solved(parts, moments, torch.stack(moments).sum(0) + RIDGE * kept)
