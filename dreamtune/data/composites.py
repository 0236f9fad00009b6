"""Composites: images of the subject beside another thing, made from its own images and from generated ones.

An adapter that has only seen its subject alone, centered, and first in the prompt does not respond to its token in an
image of two things. Composites show it on both sides, with captions that name it first and second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamtune.errors import ConfigError, DatasetError
from dreamtune.models import Base
from dreamtune.models.device import arithmetic

from .auto_masks import enlarged
from .buckets import Crop, Framing
from .cache import Cache, key_of, weights_digest
from .composing import PICTURE, SIDES, Side, beside, cut_out_size
from .encode import Example, encoded, open_again
from .images import Remark, UnusablePicture, quiet, to_tensor
from .masks import cell_weights, read_mask
from .prior import picture_time_ids
from .subject import Subject
from .survey import Photo

COMPOSITES = 48
"""Made in all of a few pictures; of many pictures each has two, one at each side."""
OTHERS = 16
"""Pictures of other things that are drawn for them in all."""
_LEAST_CELLS = 8
"""Latent cells along a side with fewer of which a half shows nothing."""
_MOST_ENLARGED = 2.0
_SHOWN = 0.5
"""Weight from which on a latent cell counts as one that a mask shows."""


@dataclass(frozen=True)
class Composite:
    """One that is to be made."""

    photo: Photo
    on: Side
    """Where the subject stands."""
    other: str
    """What stands at the other side, as prompts call it: "mug"."""
    number: int
    """Which of its pictures."""
    height: float
    """From 0 to 1, how low both stand."""

    def captions(self, subject: str) -> tuple[str, ...]:
        """What is true of it, the subject ("sks dog") first and second; it has one of them each time it is seen."""
        own, other = _with_article(subject), _with_article(self.other)
        there = SIDES[self.on == "left"]
        second = f"{other} on the {there} and {own} on the {self.on}"
        # Pictures of it alone name it first: here it is the second in three of four cases.
        return (f"{own} on the {self.on} and {other} on the {there}", second, second, f"{other} and {own}")


def plan_composites(
    subject: Subject, others: Sequence[str], seed: int
) -> tuple[tuple[Composite, ...], tuple[Remark, ...]]:
    """Those of a training, as many at the left as at the right; and what is to be said of pictures left out.

    Raises ConfigError for a resolution at which nothing would be seen, DatasetError if no picture can be used.
    """
    resolution, cell = subject.resolution, subject.framing.cell
    if resolution < _LEAST_CELLS * cell:
        raise ConfigError(
            f"resolution = {resolution} is too small for composites, which show a thing in each half: "
            f"use at least {_LEAST_CELLS * cell}"
        )
    judged = [(photo, _problem(photo, resolution, cell)) for photo in subject.photos]
    photos = [photo for photo, remark in judged if remark is None or not remark.skipped]
    remarks = tuple(remark for _, remark in judged if remark is not None)
    if not photos:
        raise DatasetError(
            f"no image can be used in composites: {remarks[0].file} {remarks[0].problem}; use larger images or "
            "paint more of the mask white"
        )
    pairs = max(1, -(-COMPOSITES // (2 * len(photos))))
    random, found = Random(f"composites {seed}"), list[Composite]()
    for index, photo in enumerate(photos):
        for pair in range(pairs):
            other = others[(index + pair) % len(others)]
            numbers = [random.randrange(others_of_each(others)) for _ in SIDES]
            found += [Composite(photo, on, other, it, random.random()) for on, it in zip(SIDES, numbers, strict=True)]
    return tuple(found), remarks


def others_of_each(others: Sequence[str]) -> int:
    """How many pictures of each other thing are drawn."""
    return -(-OTHERS // len(others))


def mask_digest(composites: Sequence[Composite]) -> str:
    """Hash of the files of masks: composites see more of them than the weights of latent cells tell.

    Raises DatasetError.
    """
    digest = hashlib.sha256()
    try:
        for path in dict.fromkeys(it.photo.mask_file for it in composites if it.photo.mask is not None):
            digest.update(b"" if path is None else hashlib.sha256(path.read_bytes()).digest())
    except OSError as error:
        raise DatasetError(f"cannot re-read the mask {error.filename}: {error.strerror or error}") from None
    return digest.hexdigest()


def composite_examples(
    base: Base,
    composites: Sequence[Composite],
    drawn: Mapping[str, Tensor],
    rows: Callable[[Composite], tuple[int, ...]],
    resolution: int,
    cache: Cache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Example, ...]:
    """The composites for training: squares of `resolution` pixels, weighed by what they show of each thing.

    drawn: other thing -> latents (n, c, h, w) of its pictures. rows: the captions' places in the training's prompts.
    Latents come from the cache where they are there; an entry depends on the composite's pixels, the VAE's weights and
    type, and the arithmetic of the device. `on_progress(done, of)` is told after each.

    Raises DatasetError and BaseModelError as subject_examples does.
    """
    cache, vae = cache or Cache("latents"), weights_digest(base.vae)
    pictures = {other: base.to_pictures(latents) for other, latents in drawn.items()}
    whole = Crop((resolution, resolution), (0, 0, resolution, resolution), (resolution, resolution))
    examples = []
    for done, it in enumerate(composites, 1):
        cut, mask = _cut(it.photo, resolution, base.factor)
        image, weight = beside(cut, mask, pictures[it.other][it.number], it.on, it.height, base.factor)
        pixels = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
        key = key_of({"composite": pixels, "size": image.size, "vae": vae, "arithmetic": arithmetic(base.device)})
        entry = cache.get(key)
        if entry is None:
            cache.put(key, entry := {"latent": encoded(base, to_tensor(image), f"a composite of {it.photo.file}")})
        weights = cell_weights(weight, whole, base.factor)
        shown = None if weights is None else torch.from_numpy(weights.copy())
        examples.append(Example(entry["latent"], rows(it), shown, picture_time_ids(resolution)))
        if on_progress:
            on_progress(done, len(composites))
    cache.make_room()
    return tuple(examples)


def _cut(photo: Photo, resolution: int, cell: int) -> tuple[Image.Image, Image.Image | None]:
    """The subject of a photo at its size in a composite: what its mask shows and that, or the whole picture."""
    picture = open_again(photo)
    box = _shown_box(photo, cell)
    if box is None:
        side, square = round(PICTURE * resolution), Framing(resolution, buckets=False).crop(*picture.size)
        return Crop(picture.size, square.box, (side, side)).apply(picture.image), None
    size = cut_out_size(box[2] - box[0], box[3] - box[1], resolution)
    mask, crop = picture.alpha, Crop(picture.size, box, size)
    if photo.made_mask is not None:
        mask = enlarged(photo.made_mask, picture.size)
    elif photo.mask_file is not None:
        try:
            with quiet():
                mask = read_mask(photo.mask_file, picture.size)
        except UnusablePicture as error:
            raise DatasetError(f"{photo.mask_file}: {error.problem}; it was readable earlier: start again") from None
    assert mask is not None  # there are weights of it, and the picture is the same
    return crop.apply(picture.image), crop.apply(mask)


def _shown_box(photo: Photo, cell: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom, in pixels of the picture, of the latent cells that the mask shows; None without."""
    if photo.mask is None:
        return None
    rows, columns = (np.flatnonzero((photo.mask >= _SHOWN).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    left, top, right, bottom = photo.crop.box
    x, y = (right - left) / photo.crop.size[0] * cell, (bottom - top) / photo.crop.size[1] * cell
    return (
        left + round(x * columns[0]),
        top + round(y * rows[0]),
        min(right, left + round(x * (columns[-1] + 1))),
        min(bottom, top + round(y * (rows[-1] + 1))),
    )


def _problem(photo: Photo, resolution: int, cell: int) -> Remark | None:
    """A remark on a photo that makes no composites, or others than its mask lets one expect."""
    box = _shown_box(photo, cell)
    if photo.mask is not None and box is None:
        return Remark(photo.file, "has a mask that shows almost nothing", "composites leave it out", skipped=True)
    left, top, right, bottom = box or photo.crop.box
    size = (right - left, bottom - top)
    wanted = cut_out_size(*size, resolution) if box else (round(PICTURE * resolution),) * 2
    enlarged = min(wanted[0] / size[0], wanted[1] / size[1])
    if enlarged > _MOST_ENLARGED:
        problem = (
            f"shows the subject at {size[0]}x{size[1]} pixels, which composites would upscale {enlarged:.1f} times"
        )
        return Remark(photo.file, problem, "they leave it out", skipped=True)
    if photo.mask is None and photo.mask_file is not None:
        return Remark(
            photo.file, "has a mask that shows everything", "composites show the whole image: paint the rest black"
        )
    return None


def _with_article(thing: str) -> str:
    return f"{'an' if thing[0].lower() in 'aeiou' else 'a'} {thing}"
