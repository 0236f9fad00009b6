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

from ..world import (
    CLASSES,
    COLORS,
    CONTEXTS,
    PATTERNS,
    Scene,
    Subject,
    caption,
    look_alike,
    random_scene,
    random_subject,
    render,
)

_COLORS, _CONTEXTS = list(COLORS), list(CONTEXTS)
HELD_OUT = 10_000_000
"""Number of the first individual that no evaluator has seen."""
NONE = len(_COLORS)
"""Label of the colour of a pattern or hat that is not there."""

SceneMaker = Callable[[Random, int], Scene]
"""From a generator and the number of the picture in its set to a scene."""


@dataclass(frozen=True)
class RenderSet:
    """N pictures with labels; subjects that are absent have label -1."""

    images: npt.NDArray[np.uint8]
    """(N, size, size, 3)."""
    labels: npt.NDArray[np.uint8]
    """(N, size, size): 0 background, 1 first subject, 2 second."""
    attributes: npt.NDArray[np.int16]
    """(N, 2, 5): class, colour, pattern, pattern colour, hat of each subject, indices into the world's lists."""
    contexts: npt.NDArray[np.int16]
    """(N,)."""
    boxes: npt.NDArray[np.float32]
    """(N, 2, 4): x0, y0, x1, y1 as fractions."""
    captions: list[list[str]]
    folder: Path
    """Where it lies; what is derived from it is kept there too."""

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images)


def world_scene(rng: Random, number: int) -> Scene:
    """A scene of the whole world."""
    return random_scene(rng)


def base_scene(rng: Random, number: int, classes: Sequence[str], sizes: Sequence[str], pair_share: float) -> Scene:
    """A scene of the narrower distribution that the UNet is trained on."""
    count = 2 if rng.random() < pair_share else 1
    subjects = [random_subject(rng, classes=classes) for _ in range(count)]
    return random_scene(rng, subjects, size=rng.choice(list(sizes)))


def identity(number: int) -> Subject:
    """Individual `number`; 2k and 2k + 1 are look-alikes of each other."""
    rng = Random(f"identity {number // 2}")
    first = random_subject(rng)
    return look_alike(rng, first) if number % 2 else first


def identity_scene(rng: Random, number: int, views: int, first: int) -> Scene:
    """Picture `number` of a set with `views` pictures of each individual, the first of which is number `first`.

    The individual is the scene's first subject; in 3 of 10 pictures another one stands beside it.
    """
    subject = identity(first + number // views)
    return random_scene(rng, [subject, random_subject(rng)] if rng.random() < 0.3 else [subject])


def lone_scene(rng: Random, number: int, views: int, first: int, sizes: Sequence[str]) -> Scene:
    """As :func:`identity_scene`, but always alone, and of one of `sizes`."""
    size = rng.choice(list(sizes))
    return random_scene(rng, [identity(first + number // views)], size=size)


def describe(scene: Scene) -> npt.NDArray[np.int16]:
    """(2, 5) attribute labels of a scene."""
    out = np.full((2, 5), -1, dtype=np.int16)
    for i, s in enumerate(scene.subjects):
        pattern_color = _COLORS.index(s.pattern_color) if s.pattern != "plain" else NONE
        hat = _COLORS.index(s.hat.color) if s.hat else NONE
        out[i] = CLASSES.index(s.cls), _COLORS.index(s.color), PATTERNS.index(s.pattern), pattern_color, hat
    return out


def _one(seed: int, first: int, make: SceneMaker, size: int, captions: int) -> tuple[Any, ...]:
    rng = Random(seed)
    scene = make(rng, seed - first)
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
        first = seed * 1_000_000_007
        job = partial(_one, first=first, make=make, size=size, captions=captions)
        with multiprocessing.get_context("spawn").Pool(workers or os.cpu_count()) as pool:
            rows = pool.map(job, range(first, first + count), chunksize=250)
        columns = list(zip(*rows, strict=True))
        names = ("images", "labels", "attributes", "contexts", "boxes")
        kinds = (np.uint8, np.uint8, np.int16, np.int16, np.float32)
        for column, part, kind in zip(columns, names, kinds, strict=False):
            np.save(target / f"{part}.npy", np.stack([np.asarray(v, dtype=kind) for v in column]))
        (target / "captions.json").write_text(json.dumps(columns[5]))
    arrays = {n: np.load(target / f"{n}.npy") for n in ("attributes", "contexts", "boxes")}
    # Gigabytes that are read in random pieces: left on the disk, and in its cache while there is room.
    arrays |= {n: np.load(target / f"{n}.npy", mmap_mode="r") for n in ("images", "labels")}
    return RenderSet(**arrays, captions=json.loads((target / "captions.json").read_text()), folder=target)
