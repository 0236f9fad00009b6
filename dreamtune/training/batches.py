"""Which pictures, timesteps and noise each step sees: pure functions of the seed and the position.

Nothing here has a state that could be lost: the position is the number of micro-batches drawn so far, so a
resumed run continues exactly, and n processes that take every n-th micro-batch see what one would have seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Shape = tuple[int, int, int]
"""(c, h, w) of a latent."""


@dataclass(frozen=True)
class MicroBatchPart:
    """Random choices of the n subject pictures or the n class pictures of a micro-batch; all have one shape."""

    rows: list[int]
    """Which pictures."""
    timesteps: Tensor
    """(n,) int64."""
    noise: Tensor
    """(n, c, h, w) fp32, standard normal, drawn on the CPU whatever the device."""
    shift: Tensor
    """(n, c) fp32, standard normal: a shift of each channel's noise, for those who want it."""
    captions: tuple[float, ...] = ()
    """n from 0 to below 1: which of its captions each subject picture has; empty for class pictures."""
    nameless: tuple[bool, ...] = ()
    """n: which subject pictures have none of them, but the empty prompt; empty for class pictures."""


@dataclass(frozen=True)
class MicroBatch:
    """Random choices of one micro-batch."""

    subjects: MicroBatchPart
    """Without any picture where all are composites."""
    prior: MicroBatchPart | None
    """None without class pictures."""
    composites: MicroBatchPart | None
    """In place of as many subject pictures; None if there are none in this micro-batch."""
    seed: int
    """For what else is random in this micro-batch, as dropout; unsigned, 32 bits."""


@dataclass(frozen=True)
class MicroBatches:
    """Deterministic source of draws; `draw(position)` may be called in any order.

    A micro-batch holds pictures of one shape. Each shape has its own endless sequence of shuffled passes over its
    pictures, and gets as many micro-batches as it has pictures, in an order shuffled anew for each round: all
    pictures are seen equally often.
    """

    seed: int
    batch_size: int
    """Subject pictures per micro-batch, and class pictures too if there are any."""
    subjects: tuple[Shape, ...]
    """Shape of each subject picture's latent."""
    prior: tuple[Shape, ...]
    """Shape of each class picture's latent; empty without class pictures."""
    timesteps: range
    """Those of the noise schedule that are trained, next to each other."""
    caption_dropout: float = 0.0
    """Share of the subject pictures that have the empty prompt."""
    composites: tuple[Shape, ...] = ()
    """Shape of each composite's latent."""
    compose: float = 0.0
    """Share of the subject pictures that are composites."""

    def draw(self, position: int) -> MicroBatch:
        """The micro-batch at `position` (0, 1, ...)."""
        generator = _generator(self.seed, "noise", position)
        kinds = {"subjects": self.subjects, "prior": self.prior}
        rows = {name: self._rows(name, shapes, position) for name, shapes in kinds.items() if shapes}
        first, end = self.timesteps.start, self.timesteps.stop
        timesteps = torch.randint(first, end, (self.batch_size * len(rows),), generator=generator)
        noise = [
            torch.randn((self.batch_size, *kinds[name][chosen[0]]), generator=generator)
            for name, chosen in rows.items()
        ]
        shifts = [torch.randn(part.shape[:2], generator=generator) for part in noise]
        subjects, *prior = map(MicroBatchPart, rows.values(), timesteps.split(self.batch_size), noise, shifts)
        # a generator of its own: what else is drawn does not depend on how many captions there are
        chance = torch.rand(
            (2, self.batch_size), generator=_generator(self.seed, "captions", position), dtype=torch.float64
        )
        nameless = tuple((chance[1] < self.caption_dropout).tolist())
        subjects = replace(subjects, captions=tuple(chance[0].tolist()), nameless=nameless)
        seed, composites = _start(self.seed, f"else {position}"), self._composites(position, subjects)
        if composites is not None:
            subjects = _first(subjects, self.batch_size - len(composites.rows))
        return MicroBatch(subjects, prior[0] if prior else None, composites, seed)

    def _composites(self, position: int, subjects: MicroBatchPart) -> MicroBatchPart | None:
        """The composites of micro-batch `position`, by a generator of their own: the others stay what they were."""
        if not self.composites:
            return None
        generator = _generator(self.seed, "composites", position)
        count = int((torch.rand(self.batch_size, generator=generator) < self.compose).sum())
        if not count:
            return None
        rows = self._rows("composites rows", self.composites, position)[:count]
        shape = self.composites[rows[0]]
        return MicroBatchPart(
            rows,
            torch.randint(self.timesteps.start, self.timesteps.stop, (count,), generator=generator),
            torch.randn((count, *shape), generator=generator),
            torch.randn((count, shape[0]), generator=generator),
            subjects.captions[-count:],
            subjects.nameless[-count:],
        )

    def _rows(self, stream: str, shapes: Sequence[Shape], position: int) -> list[int]:
        """The rows of micro-batch `position`."""
        buckets: dict[Shape, list[int]] = {}
        for row, shape in enumerate(shapes):
            buckets.setdefault(shape, []).append(row)
        bucket, turn = self._turn(stream, [len(rows) for rows in buckets.values()], position)
        own = list(buckets.values())[bucket]
        start = turn * self.batch_size
        rows: list[int] = []
        while len(rows) < self.batch_size:
            epoch, offset = divmod(start + len(rows), len(own))
            order = torch.randperm(len(own), generator=_generator(self.seed, f"{stream}{bucket or ''}", epoch))
            rows += [own[place] for place in order.tolist()[offset : offset + self.batch_size - len(rows)]]
        return rows

    def _turn(self, stream: str, sizes: Sequence[int], position: int) -> tuple[int, int]:
        """Which bucket has micro-batch `position`, and how many it had before."""
        shares = [size // math.gcd(*sizes) for size in sizes]
        turns = [bucket for bucket, share in enumerate(shares) for _ in range(share)]
        round_, offset = divmod(position, len(turns))
        order = torch.randperm(len(turns), generator=_generator(self.seed, f"{stream} turns", round_)).tolist()
        chosen = [turns[place] for place in order[: offset + 1]]
        return chosen[-1], round_ * shares[chosen[-1]] + chosen[:-1].count(chosen[-1])


def _first(part: MicroBatchPart, count: int) -> MicroBatchPart:
    """The first `count` pictures."""
    return MicroBatchPart(
        part.rows[:count],
        part.timesteps[:count],
        part.noise[:count],
        part.shift[:count],
        part.captions[:count],
        part.nameless[:count],
    )


def _generator(seed: int, stream: str, index: int) -> torch.Generator:
    # torch's CPU generator looks at 32 bits only: a hash parts runs and streams, counting up from it then
    # never repeats within one.
    return torch.Generator().manual_seed((_start(seed, stream) + index) % 2**32)


def _start(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:4], "little")
