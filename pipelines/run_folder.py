"""The folder of one training run: made, locked, written and read back here and nowhere else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from dreamtune.errors import ConfigError, RunFolderError, TrainingError
from dreamtune.pipelines.output import check_place, write_png
from dreamtune.plain_yaml import read_yaml
from dreamtune.storage import atomic, sweep
from dreamtune.training.config import TrainConfig

LOCK = ".lock"


class RunFolder:
    """Paths and files of a run folder; see the architecture notes in the documentation for its layout."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.report = self.path / "report.json"
        self.adapter = self.path / "adapter.safetensors"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tensorboard"
        self.trackers = self.path / "trackers.json"
        self.curve = self.path / "curve.jsonl"
        self.curve_figure = self.path / "curve.png"
        self.best = self.path / "best.safetensors"

    def check(self, resume: bool) -> None:
        """Raise RunFolderError if a run cannot start here, or with `resume` cannot continue. Writes nothing."""
        if self._is_used() and not resume:
            raise RunFolderError(f"the run folder {self.path} already exists: resume the run, or choose another name")
        if resume and not self._is_used():
            raise RunFolderError(f"no run to resume in {self.path}: check the path")
        if resume and self._has_trained():  # without a checkpoint it would begin anew, over all that
            from dreamtune.training.checkpoints import latest  # not needed to look at a run, and heavy

            if latest(self.checkpoints) is None:
                raise RunFolderError(
                    f"no complete checkpoint in {self.checkpoints} to resume from: restore one, or start a new run"
                )
        check_place(self.path, RunFolderError)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Make the folder and hold it: two processes never train in one. Raises RunFolderError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise RunFolderError(f"another process is training in {self.path}: wait for it or stop it") from None
        except OSError as error:
            raise RunFolderError(f"cannot write to {self.path}: {error.strerror}; choose another run folder") from None
        try:
            for folder in (self.path, self.checkpoints, self.samples):
                sweep(folder)
            yield
        finally:
            lock.release()

    def is_held(self) -> bool:
        """Whether a process is training here at this moment. Writes nothing."""
        lock = self.path / LOCK
        try:
            with contextlib.ExitStack() as held:
                if lock.is_file():
                    held.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            return True
        return False

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within the block `path` is written. Raises TrainingError where the disk is full or the like."""
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot write {path}: {error.strerror or error}; free some disk space and resume with: "
                f"dreamtune train --resume {self.path}"
            ) from None

    def write_config(self, config: TrainConfig) -> None:
        """Begin, or go on with, a run of these settings. Raises RunFolderError."""
        try:
            _write_text(self.config, config.to_yaml())
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self.config}: {error.strerror or error}; free some disk space and run the same command "
                "again"
            ) from None

    def go_on(self) -> None:
        """Mark the run as unfinished: more steps follow. Its files stay until they are replaced."""
        self.report.unlink(missing_ok=True)

    def write_text(self, path: Path, text: str) -> None:
        """Write a file of the run atomically. Raises TrainingError."""
        with self.writing(path):
            _write_text(path, text)

    def read_config(self) -> TrainConfig:
        """The complete settings of the run. Raises RunFolderError if there is none, ConfigError if it is damaged."""
        if not self.config.is_file():
            raise RunFolderError(f"no config.yaml in {self.path}, so there is no run to resume: check the path")
        return TrainConfig.from_mapping(read_yaml(self.config), source=str(self.config))

    def check_same(self, recorded: TrainConfig, config: TrainConfig, but: Collection[str] = ()) -> None:
        """Raise ConfigError that shows each setting, `but` those, in which `config` differs from the run's."""
        old, new = recorded.model_dump(mode="json"), config.model_dump(mode="json")
        other = [key for key in new if old[key] != new[key] and key not in but]
        changes = [f"{key} was {old[key]!r}, now {new[key]!r}" for key in other]
        if changes:
            raise ConfigError(
                f"cannot resume {self.path} with different settings ({'; '.join(changes)}): restore them, or start a "
                "new run"
            )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl; a line cut short by a kill is left out."""
        return self.read_lines(self.metrics)

    def read_lines(self, path: Path) -> list[dict[str, Any]]:
        """Lines of a .jsonl file, none without it; a line cut short by a kill is left out."""
        if not path.exists():
            return []
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return lines

    def cut_metrics(self, step: int) -> None:
        """Forget the lines after `step`: those steps are done again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        self.write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def final_loss(self, steps: int = 20) -> float | None:
        """Mean loss of the last `steps` steps, None without any."""
        losses = [line["loss"] for line in self.read_metrics()][-steps:]
        return sum(losses) / len(losses) if losses else None

    def save_picture(self, path: Path, picture: Image.Image) -> None:
        """Write a PNG atomically. Raises TrainingError."""
        with self.writing(path):
            write_png(path, picture)

    def _has_trained(self) -> bool:
        """Whether there is, or was, a step to resume from: a run stopped before its first checkpoint starts over."""
        return self.adapter.exists() or self.report.exists() or any(self.checkpoints.glob("step-*"))

    def _is_used(self) -> bool:
        if not self.path.is_dir():
            return False
        # A run killed while it wrote its first file can neither be resumed nor be in the way.
        return any(not entry.name.endswith(".tmp") and entry.name != LOCK for entry in self.path.iterdir())


def _write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
