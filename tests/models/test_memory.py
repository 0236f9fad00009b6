"""Memory that runs out is told apart from other errors, on every device."""

from collections.abc import Callable

import pytest
import torch

from dreamtune.errors import GenerationError
from dreamtune.models.device import enough_memory


def raises(fault: Exception) -> Callable[[], object]:
    def act() -> None:
        raise fault

    return act


@pytest.mark.parametrize(
    "act",
    [
        lambda: torch.empty(2**58),  # what torch really says on this machine
        lambda: bytes(2**62),
        raises(torch.OutOfMemoryError()),
        raises(RuntimeError("CUDA error: out of memory")),
        raises(RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)")),
        raises(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        raises(RuntimeError("std::bad_alloc")),
    ],
)
def test_too_little_memory(act: Callable[[], object]) -> None:
    with pytest.raises(GenerationError, match="lower size") as caught, enough_memory(GenerationError("lower size")):
        act()
    assert caught.value.__suppress_context__


def test_other_errors_pass() -> None:
    fault = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    with pytest.raises(RuntimeError) as caught, enough_memory(GenerationError("lower size")):
        raise fault
    assert caught.value is fault
