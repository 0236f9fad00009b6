"""One thread for all that computes, whoever asks: threads of their own would each keep memory and helpers of torch."""

from __future__ import annotations

import contextvars
import functools
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
        return _thread.submit(lambda: context.run(action, *args, **kwargs)).result()

    return run
