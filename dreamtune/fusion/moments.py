"""Second moments of layer inputs recorded while adapters are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dreamtune.adapters.patches import patches

_COUNT = "count of "
"""Beginning of the names of counts among tensors; no layer has such a name."""


@dataclass
class Moments:
    """C = X Xᵀ / n of the inputs that layers got, summed up as they come: (in, in) a layer, in fp32 or better.

    Those of a convolution are patches, of in = channels·kh·kw numbers each.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    _last: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)
    """An input and its own X Xᵀ: queries, keys and values of a layer get the very same tensor one after the other."""

    def add(self, layer: str, x: Tensor) -> None:
        """Count inputs x (..., in) of the linear `layer`."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, _gram(x.detach().flatten(0, -2)))
        self._count(layer, self._last[1], x.shape[:-1].numel())

    def add_patches(self, layer: str, module: nn.Conv2d, x: Tensor) -> None:
        """Count the patches that the convolution `module` gets with its inputs x (n, channels, h, w)."""
        for rows in patches(module, x.detach()):
            self._count(layer, _gram(rows), len(rows))

    def _count(self, layer: str, gram: Tensor, rows: int) -> None:
        self.sums[layer] = self.sums[layer] + gram if layer in self.sums else gram
        self.counts[layer] = self.counts.get(layer, 0) + rows

    def means(self) -> dict[str, Tensor]:
        """Layer -> C (in, in) on the CPU, of those that got inputs."""
        return {layer: (total / self.counts[layer]).cpu() for layer, total in self.sums.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be stored."""
        sums = {layer: total.clone() for layer, total in self.sums.items()}  # layers may share one, files may not
        return {**sums, **{f"{_COUNT}{layer}": torch.tensor(count) for layer, count in self.counts.items()}}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Moments:
        """Undo :meth:`tensors`, on `device`."""
        sums = {name: it.to(device) for name, it in tensors.items() if not name.startswith(_COUNT)}
        return cls(sums, {name: int(tensors[f"{_COUNT}{name}"]) for name in sums})


def _gram(rows: Tensor) -> Tensor:
    """X Xᵀ (in, in) of (tokens, in)."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return wide.T @ wide


@dataclass(frozen=True)
class Inputs:
    """Recorded layer inputs, for the fusions that need them."""

    own: Sequence[Mapping[str, Tensor]]
    """For each adapter that takes part, in their order: layer path -> C (in, in) while it is used."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer path -> C (in, in) of captions that have nothing to do with any subject."""


@contextmanager
def recorded(layers: Mapping[str, nn.Module], moments: Moments) -> Iterator[None]:
    """Within the block, add the inputs of `layers` (name -> module) to `moments`."""
    with ExitStack() as stack:
        for name, layer in layers.items():

            def hook(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if isinstance(module, nn.Conv2d):
                    moments.add_patches(name, module, inputs[0])
                else:
                    moments.add(name, inputs[0])

            stack.callback(layer.register_forward_pre_hook(hook).remove)
        yield
