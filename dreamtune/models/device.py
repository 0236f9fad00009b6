"""The device: how exactly it computes fp32, and the error when it runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamtune.adapters.linear_function import exact
from dreamtune.errors import DreamtuneError


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within the block fp32 convolutions are computed in fp32, as torch computes products of matrices.

    On GPUs from Ampere on torch lets cuDNN round what it convolves to TF32, to 10 bits, unless told otherwise. Who
    allows TF32 for products (torch.set_float32_matmul_precision("high")) allows it here too.
    """
    if not exact(torch.float32):
        yield
        return
    cudnn = torch.backends.cudnn
    try:
        place, name, value, before = cudnn, "allow_tf32", False, cudnn.allow_tf32
    except RuntimeError:  # settings that torch 2.9 brought are in use, and this one then refuses
        place = getattr(cudnn, "conv")  # noqa: B009 (unknown to the types of older ones)
        name, value, before = "fp32_precision", "ieee", place.fp32_precision
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def arithmetic(device: torch.device) -> str:
    """The kind of device, and whether fp32 is rounded there: caches of what was computed keep these apart."""
    return device.type if exact(torch.float32) else f"{device.type}, products in TF32 or less"


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
