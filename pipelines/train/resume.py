"""Going on with a run: what may be other than it was, and what must be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError, RunFolderError
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.training.checkpoints import Checkpoint, latest
from dreamtune.training.config import TrainConfig
from dreamtune.training.schedules import lr_factor

PLACES = {
    "images": ("pictures", "PICTURES"),
    "base": ("weights of the base", "--base MODEL"),
    "dino": ("weights of dino", "--set dino=FOLDER"),
    "clip": ("weights of clip", "--set clip=FOLDER"),
    "start_from": ("adapter to start from", "--start-from FILE"),
}
"""Settings that say where something lies -> what that is, and how to say where it lies now. Their contents count."""
CARRIED = ("started_from", "extended_after")
"""What an adapter's training tells of the run's past, beside its settings."""


def find_places(config: TrainConfig, past: Past, on_progress: OnProgress) -> TrainConfig:
    """`config` with every place that is gone replaced by the same one nearer to the run, where there is one.

    Whether it holds what it did is for :meth:`Past.check` to tell. Raises RunFolderError for what is nowhere.
    """
    folder = past.folder
    for name, (what, option) in PLACES.items():
        place = Path(str(getattr(config, name)))
        if not place.is_absolute() or place.exists() or (name == "start_from" and past.step):
            continue  # what a run started from is not needed once it has gone on from there
        found = _moved_along(place, folder.path.resolve())
        if found is None:
            raise RunFolderError(
                f"{place} is gone, which has the {what} of {folder.path}: say where it lies now: "
                f"dreamtune train {option} --resume {folder.path}"
            )
        on_progress(Progress("remark", message=f"{place} is gone: the {what} of {found} are taken"))
        config = config.changed(**{name: found if isinstance(getattr(config, name), Path) else str(found)})
    return config


def _moved_along(place: Path, run: Path) -> Path | None:
    """Where `place` would lie if a folder that holds it and `run` was moved or renamed: its end, as much as can be, in
    one of the folders that hold the run.
    """
    for start in range(1, len(place.parts)):
        for above in run.parents:
            found = above.joinpath(*place.parts[start:])
            if found.exists() and run != found and run not in found.parents:
                return found
    return None


@dataclass(frozen=True)
class Past:
    """What a run has done before, as its newest checkpoint tells."""

    folder: RunFolder
    step: int = 0
    """Optimizer steps done."""
    contents: Mapping[str, Any] = field(default_factory=dict)
    """Hashes of what it was trained with, see Prepared.contents."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Those of CARRIED that its adapter tells."""

    @classmethod
    def of(cls, folder: RunFolder) -> Self:
        """What there is of it."""
        checkpoint = latest(folder.checkpoints)
        if checkpoint is None:
            return cls(folder)
        return cls(folder, checkpoint.step, checkpoint.identity, _carried(checkpoint, folder))

    def check_settings(self, config: TrainConfig, on_progress: OnProgress) -> Past:
        """Raise ConfigError that shows each setting in which `config` may not differ from the run's.

        Places may, and the number of steps; what that does is told, and remembered in what is returned.
        """
        if not self.folder.config.is_file():
            return self  # stopped before anything was decided
        recorded = self.folder.read_config()
        places = PLACES.keys() - ({"start_from"} if self.step else set())  # it has begun there, and nowhere else
        self.folder.check_same(recorded, config, but={*places, "steps"})
        if config.steps == recorded.steps:
            return self
        if config.steps < self.step:
            raise ConfigError(f"steps = {config.steps}, but {self.folder.path} has done {self.step}: give more")
        on_progress(Progress("remark", message=_extended(recorded, config, self.step)))
        if config.lr_schedule == "constant" or not self.step:  # it is as if they had been so many from the beginning
            return self
        after = [*self.training.get("extended_after", ()), self.step]
        return Past(self.folder, self.step, self.contents, {**self.training, "extended_after": after})

    def check(self, contents: Mapping[str, str], place: object) -> None:
        """Raise RunFolderError if the run was trained with other `contents`, what -> hash; these come from `place`."""
        other = [what for what, digest in contents.items() if self.contents.get(what, digest) != digest]
        if not other:
            return
        what = other[0]
        option = PLACES["images" if what == "pictures" else "base" if what != "judge" else "dino"][1]
        raise RunFolderError(
            f"{self.folder.path} was trained with other {what} than there are in {place}: put the former back, or say "
            f"where it lies (dreamtune train {option} --resume {self.folder.path}), or start a new run"
        )


def _carried(checkpoint: Checkpoint, folder: RunFolder) -> dict[str, Any]:
    path = checkpoint.path / folder.adapter.name
    training = AdapterFile.load(path).training if path.is_file() else {}
    return {name: training[name] for name in CARRIED if name in training}


def _extended(before: TrainConfig, now: TrainConfig, done: int) -> str:
    """What another number of steps does."""
    text = f"steps was {before.steps} and is now {now.steps}: "
    if now.lr_schedule == "constant":
        return f"{text}the learning rate is constant, so that it ends as if it had been so from the beginning"

    def rate(config: TrainConfig, step: int) -> float:
        return config.lr * lr_factor(step, config.steps, config.lr_schedule, config.warmup_steps, config.lr_cycles)

    text += f"from here on the learning rate has the course of {now.steps} steps ({now.lr_schedule})"
    if not 0 < done < now.steps:
        return text
    return f"{text}: step {done} had {rate(before, done - 1):.3g}, step {done + 1} has {rate(now, done):.3g}"
