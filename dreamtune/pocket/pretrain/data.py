"""Rendered data sets: made in parallel from a seed, kept as .npy files in the work folder, never in the repository."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from ..world import CLASSES, COLORS, CONTEXTS, PATTERNS, Scene, caption, random_scene, random_subject, render

_COLORS, _CONTEXTS = list(COLORS), list(CONTEXTS)
NO_HAT = len(_COLORS)
"""Label of a subject without a hat; with one, the label is the index of the hat's colour."""

SceneMaker = Callable[[Random], Scene]


@dataclass(frozen=True)
class RenderSet:
    """N pictures with labels; subjects that are absent have label -1."""

    images: npt.NDArray[np.uint8]
    """(N, size, size, 3)."""
    labels: npt.NDArray[np.uint8]
    """(N, size, size): 0 background, 1 first subject, 2 second."""
    attributes: npt.NDArray[np.int16]
    """(N, 2, 4): class, colour, pattern, hat of each subject, indices into the world's lists."""
    contexts: npt.NDArray[np.int16]
    """(N,)."""
    boxes: npt.NDArray[np.float32]
    """(N, 2, 4): x0, y0, x1, y1 as fractions."""
    captions: list[list[str]]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images)


def world_scene(rng: Random) -> Scene:
    """A scene of the whole world."""
    return random_scene(rng)


def base_scene(rng: Random, classes: Sequence[str], sizes: Sequence[str], pair_share: float) -> Scene:
    """A scene of the narrower distribution that the UNet is trained on."""
    count = 2 if rng.random() < pair_share else 1
    subjects = [random_subject(rng, classes=classes) for _ in range(count)]
    return random_scene(rng, subjects, size=rng.choice(list(sizes)))


def describe(scene: Scene) -> npt.NDArray[np.int16]:
    """(2, 4) attribute labels of a scene."""
    out = np.full((2, 4), -1, dtype=np.int16)
    for i, s in enumerate(scene.subjects):
        hat = _COLORS.index(s.hat.color) if s.hat else NO_HAT
        out[i] = CLASSES.index(s.cls), _COLORS.index(s.color), PATTERNS.index(s.pattern), hat
    return out


def _one(seed: int, make: SceneMaker, size: int, captions: int) -> tuple[Any, ...]:
    rng = Random(seed)
    scene = make(rng)
    picture = render(scene, size)
    labels = np.zeros((size, size), dtype=np.uint8)
    boxes = np.zeros((2, 4), dtype=np.float32)
    for i, mask in enumerate(picture.masks):
        labels[mask] = i + 1
        boxes[i] = picture.boxes[i]
    texts = [caption(rng, scene) for _ in range(captions)]
    return picture.image, labels, describe(scene), _CONTEXTS.index(scene.context), boxes, texts


def render_set(
    folder: Path,
    name: str,
    make: SceneMaker,
    count: int,
    seed: int,
    size: int,
    captions: int,
    workers: int | None = None,
) -> RenderSet:
    """`count` pictures of `make`, read from `folder` when they were rendered before with the same arguments."""
    target = folder / f"{name}-{count}-{size}px-seed{seed}"
    if not (target / "captions.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        job = partial(_one, make=make, size=size, captions=captions)
        first = seed * 1_000_000_007
        with multiprocessing.get_context("spawn").Pool(workers or os.cpu_count()) as pool:
            rows = pool.map(job, range(first, first + count), chunksize=250)
        columns = list(zip(*rows, strict=True))
        names = ("images", "labels", "attributes", "contexts", "boxes")
        kinds = (np.uint8, np.uint8, np.int16, np.int16, np.float32)
        for column, part, kind in zip(columns, names, kinds, strict=False):
            np.save(target / f"{part}.npy", np.stack([np.asarray(v, dtype=kind) for v in column]))
        (target / "captions.json").write_text(json.dumps(columns[5]))
    arrays = {n: np.load(target / f"{n}.npy") for n in ("images", "labels", "attributes", "contexts", "boxes")}
    return RenderSet(**arrays, captions=json.loads((target / "captions.json").read_text()))
