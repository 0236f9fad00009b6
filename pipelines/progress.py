"""Progress of a flow, reported to a callback: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, ParamSpec, Self, TypeVar

from dreamtune.errors import Interrupted
from dreamtune.text import bounded, inert


@dataclass(frozen=True)
class Progress:
    """One sign of life."""

    phase: str
    """What is being done, for example "pictures", "prior" or "train"; "remark" carries a message only."""
    done: int = 0
    total: int = 0
    message: str = ""
    loss: float | None = None
    """Smoothed training loss."""
    seconds_left: float | None = None
    per_second: float | None = None

    def line(self) -> str:
        """All of it on one line, as it may be printed."""
        if not self.total:
            return _plain(f"{self.phase}: {self.message}")
        parts = [f"{inert(self.phase)} {self.done}/{self.total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.per_second is not None:
            parts.append(f"{self.per_second:.2f} it/s")
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return "  ".join([*parts, *([_plain(self.message)] if self.message else [])])


def _plain(message: str) -> str:
    """A message, possibly with foreign names, as one short line without control characters."""
    return bounded(inert(message.replace("\n", " ")))


OnProgress = Callable[[Progress], None]
P = ParamSpec("P")
R = TypeVar("R")


def on_stderr(progress: Progress) -> None:
    """Marks a flow's `on_progress` as not set: :func:`shows_progress` then uses a :class:`Printer`."""


def shows_progress(flow: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the flow's `on_progress` becomes a Printer if it is :func:`on_stderr` or None."""
    signature = inspect.signature(flow)

    @functools.wraps(flow)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        if given.arguments.get("on_progress") not in (None, on_stderr):
            return flow(*args, **kwargs)
        with Printer() as printer:
            given.arguments["on_progress"] = printer
            return flow(*given.args, **given.kwargs)

    return run


def stoppable(on_progress: OnProgress, stop: threading.Event, message: str) -> OnProgress:
    """`on_progress` that also raises Interrupted with `message` once `stop` is set: ends a flow at its next report."""

    def checked(progress: Progress) -> None:
        if stop.is_set():
            raise Interrupted(message)
        on_progress(progress)

    return checked


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Printer:
    """Shows progress on `stream` (stderr): a rich bar on a terminal, else a line every few seconds.

    Use as a context manager; the instance is the `on_progress` callback.
    """

    def __init__(self, stream: IO[str] | None = None, interval: float = 5.0) -> None:
        self.stream = stream or sys.stderr
        self.interval = interval
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._last = (float("-inf"), "")
        self._is_gone = False

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.description:9}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )

            class Screen(Console):
                def on_broken_pipe(self) -> None:
                    raise  # what is being handled: rich's own answer is to end the program

            self._bars = Bars(*columns, console=Screen(file=self.stream))
            self._try(self._bars.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, progress: Progress) -> None:
        """Show `progress`. A stream that is gone, with its terminal or reader, stops the showing and nothing else."""
        if not self._is_gone:
            self._try(lambda: self._show(progress))

    def _try(self, show: Callable[[], object]) -> None:
        try:
            show()
        except OSError:
            self._is_gone = True
            self._stop()

    def _stop(self) -> None:
        if self._bars:
            with contextlib.suppress(OSError):
                self._bars.stop()

    def _show(self, progress: Progress) -> None:
        if self._bars is None:
            self._print(progress)
        elif not progress.total:
            self._bars.console.print(progress.line(), markup=False, highlight=False)
        else:
            note = progress.line().partition("  ")[2]
            if progress.phase not in self._tasks:
                self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=progress.total, note=note)
            self._bars.update(self._tasks[progress.phase], completed=progress.done, note=note)

    def _print(self, progress: Progress) -> None:
        now, (then, phase) = time.monotonic(), self._last
        if progress.total and progress.done < progress.total and progress.phase == phase and now - then < self.interval:
            return
        if progress.total:
            self._last = (now, progress.phase)
        print(progress.line(), file=self.stream, flush=True)
