"""Checkpoints as folders step-000400/ that are complete or absent, whatever happens while they are written.

A checkpoint is written under a temporary name, its manifest with the hash of every file last; all of it is
flushed to the disk and then renamed. Older ones are removed only after that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamtune.errors import TrainingError
from dreamtune.storage import sweep
from dreamtune.training.archive import read_tree, write_tree

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files agree with its manifest."""

    path: Path
    step: int
    """Optimizer steps done."""
    identity: dict[str, Any]
    """What it belongs to (hashes of the pictures, of the base, ...), as given to :func:`save`."""
    trees: tuple[str, ...]

    def load(self) -> dict[str, Any]:
        """The state that was saved, tensors on the CPU."""
        return {name: read_tree(self.path, name) for name in self.trees}


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    identity: Mapping[str, Any],
    keep: int,
    add_files: Callable[[Path], None] | None = None,
) -> Path:
    """Write the checkpoint of `step` to `folder` and then remove all but the newest `keep` complete ones.

    `state` maps names to trees (see :mod:`dreamtune.training.archive`); `add_files(folder)` may write more files
    into it. Raises TrainingError if it cannot be written; the older checkpoints are then untouched.
    """
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if add_files:
            add_files(temporary)
        for name, tree in state.items():
            write_tree(temporary, name, tree)
        files = {path.name: _hash(path) for path in sorted(temporary.iterdir())}
        manifest = {
            "format": FORMAT,
            "step": step,
            "identity": dict(identity),
            "trees": list(state),
            "files": files,
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in (*sorted(temporary.iterdir()), temporary):
            _flush(path)
        if final.exists():  # a damaged one of the same step: the newest complete one stays where it is
            _discard(final)
        os.rename(temporary, final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error
        raise TrainingError(
            f"cannot write the checkpoint {final}: {reason}; earlier ones are intact: free some disk space and resume"
        ) from None
    rotate(folder, keep)
    return final


def rotate(folder: Path, keep: int) -> None:
    """Remove leftovers and all complete checkpoints but the newest `keep`; without a complete one nothing goes."""
    steps = _steps(folder)
    complete = [step for step in sorted(steps, reverse=True) if _is_complete(steps[step])]
    for step in complete[max(1, keep) :]:
        _discard(steps[step])
    if complete:
        for step, path in steps.items():
            if step < complete[0] and step not in complete:
                _discard(path)
    sweep(folder)


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint in `folder` whose files have the hashes of its manifest, or None."""
    for _, path in sorted(_steps(folder).items(), reverse=True):
        manifest = _manifest(path)
        if manifest and all(_matches(path / name, value) for name, value in manifest["files"].items()):
            return Checkpoint(path, manifest["step"], manifest["identity"], tuple(manifest["trees"]))
    return None


def _steps(folder: Path) -> dict[int, Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return {int(match[1]): path for path in paths if (match := _NAME.match(path.name)) and path.is_dir()}


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return manifest if manifest["format"] == FORMAT and isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_complete(path: Path) -> bool:
    """A manifest and every file it names; hashes are checked by :func:`latest`, too slow for every rotation."""
    manifest = _manifest(path)
    return manifest is not None and all((path / name).is_file() for name in manifest["files"])


def _matches(path: Path, digest: str) -> bool:
    try:
        return _hash(path) == digest
    except OSError:
        return False


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(path: Path) -> None:
    """Remove a checkpoint so that a removal cut short leaves no folder with a checkpoint's name."""
    doomed = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
