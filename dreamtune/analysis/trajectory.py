"""How early a training shows which directions it will change most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .directions import accuracy, recall


@dataclass(frozen=True)
class Prediction:
    """How well the directions of one step agree with true ones; means over layers, None if defined in no layer."""

    step: int
    recall: float | None
    """True top k/2 within the predicted top k (4 in 8)."""
    accuracy: float | None
    """Predicted top k within the true top 2k (8 in 16)."""


def predictions(
    steps: Mapping[int, Mapping[str, Tensor]], true: Mapping[str, Tensor], k: int = 8
) -> Sequence[Prediction]:
    """For each step of a training, against the directions of its end or of full fine-tuning.

    steps: step -> layer -> indices of its directions by falling δ, at least k; true: layer -> those aimed at, at least
    2k. Layers that one of them lacks are left out.
    """
    result = []
    for step, layers in sorted(steps.items()):
        common = [(layers[name], true[name]) for name in layers if name in true]
        recalls = [value for own, aim in common if (value := recall(own, aim, k)) is not None]
        accuracies = [value for own, aim in common if (value := accuracy(own, aim, k)) is not None]
        result.append(
            Prediction(
                step,
                sum(recalls) / len(recalls) if recalls else None,
                sum(accuracies) / len(accuracies) if accuracies else None,
            )
        )
    return result
