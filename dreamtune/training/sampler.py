"""Which pictures, timesteps and noise each step sees: pure functions of the seed and the position.

Nothing here has a state that could be lost: the position is the number of micro-batches drawn so far, so a
resumed run continues exactly, and n processes that take every n-th micro-batch see what one would have seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Random choices of one micro-batch of n = subjects + prior samples."""

    subjects: list[int]
    """Rows of the subject's pictures."""
    prior: list[int]
    """Rows of the class pictures; empty without prior preservation."""
    timesteps: Tensor
    """(n,) int64."""
    noise: Tensor
    """(n, c, h, w) fp32, standard normal, drawn on the CPU whatever the device."""


@dataclass(frozen=True)
class Sampler:
    """Deterministic source of draws; `draw(position)` may be called in any order."""

    seed: int
    batch_size: int
    """Subject pictures per micro-batch, and class pictures too if there are any."""
    subjects: int
    """Number of subject pictures."""
    prior: int
    """Number of class pictures; 0 without prior preservation."""
    shape: tuple[int, int, int]
    """(c, h, w) of a latent."""
    timesteps: int
    """Number of training timesteps of the noise schedule."""

    def draw(self, position: int) -> Draw:
        """The micro-batch at `position` (0, 1, ...)."""
        generator = _generator(self.seed, "noise", position)
        n = self.batch_size * (2 if self.prior else 1)
        start = position * self.batch_size
        return Draw(
            subjects=self._rows("subjects", self.subjects, start),
            prior=self._rows("prior", self.prior, start) if self.prior else [],
            timesteps=torch.randint(self.timesteps, (n,), generator=generator),
            noise=torch.randn((n, *self.shape), generator=generator),
        )

    def _rows(self, stream: str, count: int, start: int) -> list[int]:
        """Rows start, start + 1, ... of an endless sequence of shuffled passes over `count` pictures."""
        rows: list[int] = []
        while len(rows) < self.batch_size:
            epoch, offset = divmod(start + len(rows), count)
            order = torch.randperm(count, generator=_generator(self.seed, stream, epoch)).tolist()
            rows += order[offset : offset + self.batch_size - len(rows)]
        return rows


def _generator(seed: int, stream: str, index: int) -> torch.Generator:
    # torch's CPU generator looks at 32 bits only: a hash parts runs and streams, counting up from it then
    # never repeats within one.
    start = int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:4], "little")
    return torch.Generator().manual_seed((start + index) % 2**32)
