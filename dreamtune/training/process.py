"""The process of a training: its rank among several, and the signals that stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


def is_first() -> bool:
    """Whether this is the only process of its training, or the first one, the only one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """Whether this is the only process of its training."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


POLITE = ("SIGINT", "SIGTERM", "SIGHUP")
"""Windows has no SIGHUP."""


@contextlib.contextmanager
def stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """Within the block the first of these signals sets `stop`; a second one acts as it would have without us.

    A signal that is ignored stays so: nohup protects from SIGHUP, a shell its background jobs from SIGINT. Outside the
    main thread, where Python lets nobody handle signals, it does nothing: set `stop` yourself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in POLITE if hasattr(signal, name)]
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
