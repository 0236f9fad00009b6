"""The state of this installation, with a remedy for each problem."""

from __future__ import annotations

import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from dreamtune import __version__
from dreamtune.errors import BaseModelError, ConfigError, DreamtuneError, first_line
from dreamtune.pipelines.output import human
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.options import RUNS

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "huggingface_hub")
"""Packages whose versions matter most."""
EXTRAS = {
    "bitsandbytes": "optimizer adamw8bit",
    "prodigyopt": "optimizer prodigy",
    "tensorboard": "tracker tensorboard",
    "wandb": "tracker wandb",
    "pillow-heif": "HEIC photos from phones",
}
"""Optional packages, and what each is needed for."""
RUNS_SHOWN = 10
"""Unfinished runs that are listed, the newest first."""
ROOM = 2 << 30
"""Bytes free below which a training is likely to fill the disk."""


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    value: str
    """What was found."""
    state: Literal["ok", "warning", "fault"] = "ok"
    remedy: str = ""
    """What to do if it is not ok."""


@dataclass(frozen=True)
class DoctorResult:
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no fault; warnings do not count."""
        return all(check.state != "fault" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"healthy": self.healthy, "checks": [vars(check) for check in self.checks]}


def doctor(online: bool = False) -> DoctorResult:
    """Check versions, device, disk, cache, the embedded base and unfinished runs; with `online` also the hub.

    Writes nothing and raises nothing: problems are in the result.
    """
    checks = [Check("dreamtune", f"{__version__} in {Path(__file__).parent}"), _python(), *_packages()]
    checks += [*_extras(), _device(), _disk(Path.cwd()), *_cache(), _pocket(), *_runs(RUNS)]
    if online:
        checks.append(_hub())
    return DoctorResult(tuple(checks))


def _python() -> Check:
    return Check("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "missing", "fault", f"pip install {name}")


def _extras() -> Iterator[Check]:
    for name, purpose in EXTRAS.items():
        try:
            yield Check(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, f"not installed; needed for {purpose}: pip install {name}")


def _device() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("device", first_line(error), "fault", "reinstall torch for this machine")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Check(
            "device", f"cuda: {torch.cuda.device_count()} x {properties.name}, {human(properties.total_memory)}"
        )
    if torch.backends.mps.is_available():
        return Check("device", "mps (Apple)")
    text = f"cpu, {torch.get_num_threads()} threads"
    if Path("/dev/nvidia0").exists():
        return Check(
            "device",
            f"{text}; there is an NVIDIA GPU, but torch cannot use it",
            "warning",
            "install a CUDA build of torch",
        )
    return Check("device", text)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{human(free)} free in {folder}"
    if free < ROOM:
        return Check("disk", text, "warning", "free some disk space: checkpoints and class images need it")
    return Check("disk", text)


def _cache() -> Iterator[Check]:
    from dreamtune.storage import cache_dir

    folder = cache_dir()
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        yield Check("cache", f"cannot write to {folder}", "fault", "set DREAMTUNE_CACHE to another folder")
        return
    try:
        from dreamtune.data import cache_eviction

        sizes: Counter[str] = Counter()
        for entry in cache_eviction.entries(folder):
            sizes[entry.kind] += entry.size
        kinds = ", ".join(f"{kind} {human(size)}" for kind, size in sorted(sizes.items())) or "empty"
        yield Check("cache", f"{folder}: {kinds}; limit {human(cache_eviction.limit())}")
    except ConfigError as error:
        yield Check("cache", str(folder), "fault", str(error))
    if parent.stat().st_dev != Path.cwd().stat().st_dev:
        yield _disk(parent)


def _pocket() -> Check:
    from dreamtune import pocket

    try:
        folder = pocket.path()
    except BaseModelError as error:
        return Check("pocket", "no weights", "fault", str(error))
    files = [path for path in folder.rglob("*") if path.is_file()]
    damaged = [
        path.relative_to(folder).as_posix() for path in files if path.suffix == ".safetensors" and not _opens(path)
    ]
    if damaged:
        return Check("pocket", f"damaged: {', '.join(damaged)}", "fault", "reinstall dreamtune")
    return Check("pocket", f"{folder}, {human(sum(path.stat().st_size for path in files))}")


def _opens(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        from safetensors import safe_open

        with safe_open(path, framework="numpy"):
            return True
    except Exception:  # safetensors' own error is not a public class in every version
        return False


def _runs(folder: Path) -> Iterator[Check]:
    """Runs in `folder` that are training, or were stopped or killed before they finished."""
    try:
        from dreamtune.training.checkpoints import latest
    except ImportError:  # named above already
        return
    runs = [RunFolder(path) for path in folder.iterdir()] if folder.is_dir() else []
    open_runs = [run for run in runs if run.config.is_file() and not run.report.is_file()]
    open_runs.sort(key=lambda run: run.config.stat().st_mtime, reverse=True)
    for run in open_runs[:RUNS_SHOWN]:
        try:
            checkpoint = latest(run.checkpoints)
            steps = f"{checkpoint.step if checkpoint else 0} of {run.read_config().steps} steps"
        except DreamtuneError as error:
            yield Check("run", f"{run.path}: {error}", "warning", "delete the folder, or restore its config.yaml")
            continue
        if run.is_held():
            yield Check("run", f"{run.path} is training; latest checkpoint: {steps}")
        else:
            remedy = f"dreamtune train --resume {run.path}"
            yield Check("run", f"{run.path} is unfinished; latest checkpoint: {steps}", "warning", remedy)
    if len(open_runs) > RUNS_SHOWN:
        yield Check("run", f"{len(open_runs) - RUNS_SHOWN} more are unfinished")


def _hub() -> Check:
    try:
        from dreamtune.models.hub import trouble
    except ImportError as error:
        return Check("hub", f"not checked: {first_line(error)}", "warning", "install the missing packages first")
    reason = trouble()
    if reason:
        return Check("hub", f"not reachable ({reason})", "warning", "check the network; local bases still work")
    return Check("hub", "reachable")
