"""What a run folder shows of a training at this moment, read at most once per change however many look at it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dreamtune.pipelines.run_folder import RunFolder

POINTS = 300
"""Of a curve; more are not seen."""
_SMOOTH = 20
"""Steps whose mean is shown: a single loss says nothing."""


@dataclass(frozen=True)
class RunView:
    """Curves and pictures of a run; all empty before its first step."""

    losses: tuple[tuple[int, float], ...]
    """(step, mean of the last steps' losses)"""
    subject: tuple[tuple[int, float], ...]
    """(step, likeness to the subject), 0 for the base and 1 for real pictures."""
    prompt: tuple[tuple[int, float], ...]
    """(step, how well prompts are followed)."""
    samples: tuple[Path, ...]
    """The newest of each sample prompt comes last."""
    report: bool
    """Whether the training is finished."""
    token: str
    """The word for the subject, and its class; empty before the run has begun."""
    class_word: str


def read_run(path: Path) -> RunView:
    """The run in this folder, which need not exist yet. A damaged file of it shows as nothing."""
    folder = RunFolder(path)
    files = (folder.metrics, folder.curve, folder.report, folder.config, folder.samples)
    return _read(path, tuple(_stamp(file) for file in files))


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
        metrics, curve = folder.read_metrics(), folder.read_lines(folder.curve)
        token, class_word = _words(folder)
    except (OSError, UnicodeDecodeError, ValueError):
        metrics, curve, token, class_word = [], [], "", ""
    losses = [(line["step"], line["loss"]) for line in metrics if isinstance(line.get("loss"), float)]
    samples = sorted(folder.samples.glob("step-*.png")) if folder.samples.is_dir() else []
    return RunView(
        losses=_smooth(losses),
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


def _smooth(losses: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Means over a window, of which at most POINTS are kept and always the last."""
    every = max(1, len(losses) // POINTS)
    window, total, shown = [], 0.0, []
    for index, (step, loss) in enumerate(losses):
        window.append(loss)
        total += loss
        if len(window) > _SMOOTH:
            total -= window.pop(0)
        if index % every == 0 or index == len(losses) - 1:
            shown.append((step, total / len(window)))
    return tuple(shown)
