"""Which concept owns which block of a base's directions: adapters on disjoint blocks can be added without conflict.

A block is that of `column_offset` of Spectral Adapters, counted from the largest singular value, or of `slot` of
orthogonal LoRA. The book is one JSON file, which processes share by a lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from dreamtune.errors import ConfigError
from dreamtune.storage import atomic

KINDS = {"spectral": "column_offset", "orthogonal": "slot"}
"""Kind of block -> the option of its methods that says which."""
_WAIT = 10.0
"""Seconds to wait for another process."""


@dataclass(frozen=True)
class Block:
    """A concept's directions. Raises ConfigError for values that no block can have."""

    base: str
    concept: str
    kind: str
    offset: int
    """In blocks of `rank`."""
    rank: int

    def __post_init__(self) -> None:
        """Check them."""
        if not self.base or not self.concept:
            raise ConfigError("a block belongs to a concept on a base: set both names")
        if self.kind not in KINDS:
            raise ConfigError(f"kind = {self.kind!r} must be one of {', '.join(KINDS)}")
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank} must be at least 1")
        if self.offset < 0:
            raise ConfigError(f"offset = {self.offset} must be at least 0")

    @property
    def columns(self) -> range:
        """The directions themselves."""
        return range(self.offset * self.rank, (self.offset + 1) * self.rank)

    @property
    def option(self) -> str:
        """What to train with."""
        return f"{KINDS[self.kind]}={self.offset}"


class Columns:
    """The registry in the file `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blocks(self, base: str | None = None) -> list[Block]:
        """All, or those of `base`, by base, kind and place. Raises ConfigError for a book that cannot be read."""
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
            found = [Block(**row) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, ConfigError) as error:
            raise ConfigError(f"cannot read {self.path} ({error}): repair it, or remove it to start over") from None
        found = [block for block in found if base in (None, block.base)]
        return sorted(found, key=lambda block: (block.base, block.kind, block.columns.start))

    def reserve(self, base: str, concept: str, kind: str, rank: int, offset: int | None = None) -> Block:
        """Give `concept` the block at `offset`, or the first that is free.

        Raises ConfigError for a block that overlaps another's, for a concept that has one already, and for bad values.
        """
        new = Block(base, concept, kind, offset or 0, rank)
        with self._locked() as blocks:
            taken = [block for block in blocks if (block.base, block.kind) == (base, kind)]
            for block in taken:
                if block.concept == concept:
                    raise ConfigError(f"{concept} already has {kind} block {block.offset} of {base}: free it first")
            if offset is None:
                while any(_overlap(new, block) for block in taken):
                    new = replace(new, offset=new.offset + 1)
            for block in taken:
                if _overlap(new, block):
                    raise ConfigError(
                        f"directions {_span(new)} of {base} overlap {_span(block)} of {block.concept}: "
                        "leave the offset out to get a free block"
                    )
            blocks.append(new)
        return new

    def free(self, base: str, concept: str) -> list[Block]:
        """Take the blocks of `concept` on `base` back. Raises ConfigError if it has none."""
        with self._locked() as blocks:
            gone = [block for block in blocks if (block.base, block.concept) == (base, concept)]
            if not gone:
                raise ConfigError(f"{concept} has no block of {base}: see dreamtune columns list")
            blocks[:] = [block for block in blocks if block not in gone]
        return gone

    @contextmanager
    def _locked(self) -> Iterator[list[Block]]:
        """The blocks, to be changed in place and written when the block succeeds; no other process has them then."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_WAIT):
                blocks = self.blocks()
                yield blocks
                with atomic(self.path) as temporary:
                    rows = [asdict(block) for block in blocks]
                    temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except Timeout:
            raise ConfigError(f"another process has locked {self.path}: try again") from None
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror or error}") from None


def _overlap(one: Block, other: Block) -> bool:
    return one.columns.start < other.columns.stop and other.columns.start < one.columns.stop


def _span(block: Block) -> str:
    return f"{block.columns.start} to {block.columns.stop - 1}"
