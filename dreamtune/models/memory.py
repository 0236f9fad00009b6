"""Memory that runs out while a base works, told as an error of dreamtune's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamtune.errors import DreamtuneError

_SAYINGS = ("DefaultCPUAllocator", "out of memory", "std::bad_alloc", "_ALLOC_FAILED")
"""What messages of plain RuntimeErrors hold then: of the allocator on the CPU, of other devices, of C++, of CUDA."""


@contextmanager
def enough_memory(error: DreamtuneError) -> Iterator[None]:
    """Raise `error` if the block runs out of memory, of a GPU or of the machine; other errors pass."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise error from None
    except RuntimeError as fault:
        if not any(saying in str(fault) for saying in _SAYINGS):
            raise
        raise error from None
