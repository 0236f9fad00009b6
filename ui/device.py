"""One thread for all that computes, whoever asks: threads of their own would each keep memory and helpers of torch."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
DEVICE = "device"
"""Events of this concurrency id load a base; one of them runs at a time."""
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=DEVICE)


def on_device(action: Callable[P, T]) -> Callable[P, T]:
    """The event `action` on that thread, with the progress and messages of the page that asked."""

    @functools.wraps(action)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()

        def act() -> T:
            try:
                return context.run(action, *args, **kwargs)
            finally:
                _give_back()

        return _thread.submit(act).result()

    return run


def _give_back() -> None:
    """Return what a base has left behind to the system: glibc keeps freed pieces, and a server runs for days."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
