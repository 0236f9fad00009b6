"""Resuming a run: what may have changed, and what must be the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import nn

from dreamtune.adapters import AdapterFile
from dreamtune.data.cache import weights_digest
from dreamtune.errors import ConfigError, RunFolderError
from dreamtune.evaluation import Judge
from dreamtune.models import Base
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.training.checkpoints import Checkpoint, latest
from dreamtune.training.config import TrainConfig
from dreamtune.training.optimizers import lr_factor

PLACES = {
    "images": ("images", "IMAGES_DIR"),
    "base": ("weights of the base", "--base MODEL"),
    "dino": ("weights of dino", "--set dino=FOLDER"),
    "clip": ("weights of clip", "--set clip=FOLDER"),
    "start_from": ("adapter to start from", "--start-from FILE"),
}
"""Settings that are paths -> what is there, and the option for its new path. Contents must stay the same."""
CARRIED = ("started_from", "extended_after")
"""What an adapter file records about the run's past, besides its settings."""


def find_places(config: TrainConfig, past: Past, on_progress: OnProgress) -> TrainConfig:
    """`config` with every missing path replaced by one near the run, if the folders were moved together.

    :meth:`Past.check` verifies the contents. Raises RunFolderError for what cannot be found.
    """
    folder = past.folder
    for name, (what, option) in PLACES.items():
        place = Path(str(getattr(config, name)))
        if not place.is_absolute() or place.exists() or (name == "start_from" and past.step):
            continue  # what a run started from is not needed once it has gone on from there
        found = _moved_along(place, folder.path.resolve())
        if found is None:
            raise RunFolderError(
                f"{place} with the {what} of {folder.path} is gone; set its new path with: "
                f"dreamtune train {option} --resume {folder.path}"
            )
        on_progress(Progress("remark", message=f"{place} is gone: using {found} for the {what}"))
        config = config.changed(**{name: found if isinstance(getattr(config, name), Path) else str(found)})
    return config


def _moved_along(place: Path, run: Path) -> Path | None:
    """Where `place` would be if a folder that contains both it and `run` was moved or renamed: as much of the end of
    its path as possible, in one of the folders that contain the run.
    """
    for start in range(1, len(place.parts)):
        for above in run.parents:
            found = above.joinpath(*place.parts[start:])
            if found.exists() and run != found and run not in found.parents:
                return found
    return None


@dataclass(frozen=True)
class Past:
    """What a run has done before, from its newest checkpoint."""

    folder: RunFolder
    step: int = 0
    """Optimizer steps done."""
    contents: Mapping[str, Any] = field(default_factory=dict)
    """Hashes of what it was trained with, see Prepared.contents."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Those of CARRIED that its adapter records."""

    @classmethod
    def of(cls, folder: RunFolder) -> Self:
        """What there is of it."""
        checkpoint = latest(folder.checkpoints)
        if checkpoint is None:
            return cls(folder)
        return cls(folder, checkpoint.step, checkpoint.identity, _carried(checkpoint, folder))

    def check_settings(self, config: TrainConfig, on_progress: OnProgress) -> Past:
        """Raise ConfigError that shows each setting in which `config` may not differ from the run's.

        Paths and the number of steps may differ; the effect is reported, and recorded in the result.
        """
        if not self.folder.config.is_file():
            return self  # stopped before anything was decided
        recorded = self.folder.read_config()
        places = PLACES.keys() - ({"start_from"} if self.step else set())  # it has begun there, and nowhere else
        self.folder.check_same(recorded, config, but={*places, "steps"})
        if config.steps == recorded.steps:
            return self
        if config.steps < self.step:
            raise ConfigError(
                f"steps = {config.steps}, but {self.folder.path} has already done {self.step}: set more steps"
            )
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
            f"{self.folder.path} was trained with different {'images' if what == 'pictures' else what} than {place} "
            f"has: restore the original, set its path (dreamtune train {option} --resume {self.folder.path}), or start "
            "a new run"
        )


def _carried(checkpoint: Checkpoint, folder: RunFolder) -> dict[str, Any]:
    path = checkpoint.path / folder.adapter.name
    training = AdapterFile.load(path).training if path.is_file() else {}
    return {name: training[name] for name in CARRIED if name in training}


def _extended(before: TrainConfig, now: TrainConfig, done: int) -> str:
    """What a new number of steps does."""
    text = f"steps was {before.steps} and is now {now.steps}: "
    if now.lr_schedule == "constant":
        return f"{text}the learning rate is constant, so the result is the same as with that number from the start"

    def rate(config: TrainConfig, step: int) -> float:
        return config.lr * lr_factor(step, config.steps, config.lr_schedule, config.warmup_steps, config.lr_cycles)

    text += f"from here on the learning rate follows the schedule for {now.steps} steps ({now.lr_schedule})"
    if not 0 < done < now.steps:
        return text
    return f"{text}: step {done} had {rate(before, done - 1):.3g}, step {done + 1} has {rate(now, done):.3g}"


def weights_of(base: Base) -> dict[str, str]:
    """Of all weights that a training sees."""
    encoders = [weights_digest(part) for name, part in base.parts.items() if name != "unet"]
    return {"base": weights_digest(base.unet), "VAE": weights_digest(base.vae), "text encoders": " ".join(encoders)}


def weights_of_judge(judge: Judge | None) -> dict[str, str]:
    """Of the judge's encoders; empty without a judge, and for pocket's own judge, which ships with the package."""
    parts = [] if judge is None else [weights_digest(it) for it in vars(judge).values() if isinstance(it, nn.Module)]
    return {"judge": " ".join(parts)} if parts else {}
