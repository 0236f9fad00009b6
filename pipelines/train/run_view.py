"""The current state of a training from its run folder, read at most once per change however many users watch it."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from dreamtune.pipelines.run_folder import RunFolder

POINTS = 300
"""Points of a curve; more would not be visible."""
_SMOOTH = 20
"""Steps whose mean is shown: a single loss is too noisy."""


@dataclass(frozen=True)
class RunView:
    """Curves and images of a run; all empty before its first step."""

    losses: tuple[tuple[int, float], ...]
    """(step, mean of the last steps' losses)"""
    subject: tuple[tuple[int, float], ...]
    """(step, subject fidelity), 0 for the base and 1 for real images."""
    prompt: tuple[tuple[int, float], ...]
    """(step, prompt fidelity)."""
    samples: tuple[Path, ...]
    """The newest of each sample prompt comes last."""
    report: bool
    """Whether the training is finished."""
    token: str
    """Token of the subject, and its class; empty before the run has started."""
    class_word: str


def read_run(path: Path) -> RunView:
    """The run in this folder, which need not exist yet. A damaged file of it shows as nothing."""
    folder = RunFolder(path)
    files = (folder.curve, folder.report, folder.config, folder.samples)
    return replace(_read(path, tuple(_stamp(file) for file in files)), losses=_losses(folder.metrics).read())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=32)
def _read(path: Path, stamps: tuple[tuple[int, int], ...]) -> RunView:
    folder = RunFolder(path)
    try:
        curve = folder.read_lines(folder.curve)
        token, class_word = _words(folder)
    except (OSError, UnicodeDecodeError, ValueError):
        curve, token, class_word = [], "", ""
    samples = sorted(folder.samples.glob("step-*.png")) if folder.samples.is_dir() else []
    return RunView(
        losses=(),
        subject=tuple((line["step"], line["subject"]) for line in curve if line.get("subject") is not None),
        prompt=tuple((line["step"], line["prompt"]) for line in curve if line.get("prompt") is not None),
        samples=tuple(samples),
        report=folder.report.is_file(),
        token=token,
        class_word=class_word,
    )


def _words(folder: RunFolder) -> tuple[str, str]:
    if not folder.config.is_file():
        return "", ""
    config = folder.read_config()
    return config.token, config.class_word


class _Losses:
    """The curve of one metrics.jsonl, which grows with every step: each read takes only what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._file, self._end = 0, 0
        self._window: deque[float] = deque(maxlen=_SMOOTH)
        self._means: list[tuple[int, float]] = []

    def read(self) -> tuple[tuple[int, float], ...]:
        """Means over a window, of which at most about POINTS are kept and always the last."""
        with self._mutex:
            try:
                for line in self._news():
                    self._add(line)
            except OSError:
                self._forget()
            every = max(1, len(self._means) // POINTS)
            shown = self._means[::every]
            return tuple(shown if (len(self._means) - 1) % every == 0 else [*shown, self._means[-1]])

    def _news(self) -> list[bytes]:
        """Lines that were finished since the last look; all of them where a resumed run has cut the file."""
        with open(self.path, "rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._file or stat.st_size < self._end:
                self._forget()
                self._file = stat.st_ino
            file.seek(self._end)
            whole, end, _ = file.read().rpartition(b"\n")
        self._end += len(whole) + len(end)
        return whole.splitlines()

    def _add(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            step, loss = values["step"], values["loss"]
        except (ValueError, KeyError, TypeError):
            return  # cut short by a kill
        if isinstance(step, int) and isinstance(loss, float):
            self._window.append(loss)
            self._means.append((step, sum(self._window) / len(self._window)))


_losses = lru_cache(maxsize=32)(_Losses)
