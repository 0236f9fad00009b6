"""The global random generators: seeding, saving and restoring all of them together."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def get_state() -> dict[str, Any]:
    """States of the generators of python, numpy, torch and, if it is in use, CUDA."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=True),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def set_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_state` returned; states of CUDA devices that are not there are ignored."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(value, device)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all generators within the block and restore them afterwards, so that the caller's sequence continues."""
    before = get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_state(before)
