"""Changes by layer, as factors or matrices, as the tensors and records of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..base import MethodConfig
from ..description import LayerRecord
from ..methods.full import FullConfig
from ..methods.lora import LoRAConfig


@dataclass(frozen=True, eq=False)
class Assembled:
    """What AdapterFile asks for: of LoRA of the scale 1, or of `full`."""

    config: MethodConfig
    layers: dict[str, LayerRecord]
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, factors: Mapping[str, tuple[Tensor, Tensor]], layers: Mapping[str, LayerRecord]) -> Assembled:
        """Of up (out, k) and down (k, in), k ≥ 1, by layer path, and of the layers' records with other options.

        The usual rank is the commonest, other layers tell theirs.
        """
        ranks = {path: up.shape[1] for path, (up, _) in factors.items()}
        usual = Counter(ranks.values()).most_common(1)[0][0]
        own = {path: {} if rank == usual else {"rank": rank, "alpha": float(rank)} for path, rank in ranks.items()}
        return cls(
            config=LoRAConfig(rank=usual, alpha=float(usual)),
            layers={path: replace(layers[path], options=own[path]) for path in factors},
            tensors={
                f"{path}.{name}": tensor.float().contiguous()
                for path, (up, down) in factors.items()
                for name, tensor in (("up", up), ("down", down))
            },
        )

    @classmethod
    def of_matrices(cls, matrices: Mapping[str, Tensor], layers: Mapping[str, LayerRecord]) -> Assembled:
        """Of ΔW (out, in) by layer path, as the method `full`, and of the layers' records with other options."""
        return cls(
            config=FullConfig(rank=1, alpha=1.0),  # which say nothing, but each layer must be able to have them
            layers={path: replace(layers[path], options={}) for path in matrices},
            tensors={f"{path}.change": matrix.float().contiguous() for path, matrix in matrices.items()},
        )
