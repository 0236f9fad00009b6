"""Automatic masks from where the base sees the subject, for `dreamtune mask` and for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor

from dreamtune.data import cutout
from dreamtune.data.images import LAID_ON_WHITE, Picture, Remark, UnusablePicture, to_tensor
from dreamtune.data.masks import cell_weights
from dreamtune.data.subject_map import color_map, subject_map
from dreamtune.data.survey import Photo
from dreamtune.models import Base

DRAWN_SEEDS = 2
"""Noises per timestep for them; they are looked at while a user waits."""
DRAWN_BACKGROUND = 0.5
"""See cutout.grab_cut, for pictures that the base drew."""
LEAST, MOST = 0.005, 0.95
"""Shares of a picture outside which a mask is taken for a failure: it covers nothing, or everything."""


def found_mask(
    base: Base, picture: Image.Image, size: tuple[int, int], class_word: str, seed: int = 0, grab: bool = True
) -> tuple[Image.Image, np.ndarray, float]:
    """The whole picture as the base looks at it, of `size` (width, height), a mask (h, w) bool of that size, and how
    firm that is (0 to 1); see subject_map and cutout.

    Raises ConfigError for a class that the base cannot read, BaseModelError when it makes NaN.
    """
    # the whole picture: a shape that the base knows, a little squeezed rather than cropped
    small = picture.resize(size, Image.Resampling.LANCZOS if size[0] < picture.width else Image.Resampling.BICUBIC)
    found = subject_map(base, to_tensor(small), class_word, seed).numpy()
    return small, *cutout.cut_out(np.asarray(small), found, grab=grab)


def drawn_mask(base: Base, picture: Image.Image, class_word: str, taught: Tensor | None = None) -> np.ndarray:
    """(h, w) bool: where a thing of the class is in a square picture that the base drew, of a side that it draws.

    taught: for one that adapters drew, the subject_map.change_map (h', w') of them: they know its hat too. Without any
    change, as at strength 0, it tells nothing.
    Of what it drew the base knows more than of photographs: another color of it has to change the place too, which the
    ground does not, and GrabCut gets less of the surroundings. Raises as :func:`found_mask`.
    """
    pixels = to_tensor(picture)
    attended, changed = (look(base, pixels, class_word, seeds=DRAWN_SEEDS) for look in (subject_map, color_map))
    if taught is None or not taught.any():
        found = (attended * changed).numpy()
    else:
        found = ((attended * changed).sqrt() * taught).numpy()
    return cutout.grab_cut(np.asarray(picture), found / max(found.max(), 1e-6), background=DRAWN_BACKGROUND)


def failure(share: float, class_word: str) -> str:
    """What is wrong with a mask that shows this share of its picture, or nothing."""
    if share < LEAST:
        return f"gets no mask: it would cover {share:.1%} of the image, so no {class_word} was found"
    if share > MOST:
        return f"gets no mask: it would cover {share:.1%} of the image, so no background was found"
    return ""


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A mask (h, w) bool as a picture (L) of `size` (width, height), black and white."""
    drawn = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    return drawn.point([255 * (value > 127) for value in range(256)])


def with_masks(
    base: Base,
    photos: Sequence[Photo],
    class_word: str,
    open_again: Callable[[Photo], Picture],
    cell: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Photo, ...], tuple[Remark, ...]]:
    """The photos, those without a mask or transparency of their own with one that is made, and a remark on each that
    could not have one.

    open_again: encode.open_again. cell: pixels along a side of a latent cell. Nothing is written: they are made anew
    whenever a training starts. `on_progress(done, of)` is told after each.

    Raises ConfigError for a class that the base cannot read, DatasetError for a file that has changed, BaseModelError
    when the base makes NaN.
    """
    made: list[Photo] = []
    remarks: list[Remark] = []
    for done, photo in enumerate(photos, 1):
        if photo.mask is not None or photo.mask_file is not None or LAID_ON_WHITE in photo.conversions:
            made.append(photo)
            continue
        size = photo.crop.size
        mask = found_mask(base, open_again(photo).image, size, class_word)[1]
        problem, remedy = failure(float(mask.mean()), class_word), "the whole image is learned: draw x.mask.png by hand"
        weights = None
        if not problem:
            try:
                weights = cell_weights(enlarged(mask, photo.crop.original), photo.crop, cell)
            except UnusablePicture as error:
                problem, remedy = f"gets no mask: it {error.problem}", error.remedy
        if problem:
            remarks.append(Remark(photo.file, problem, remedy))
            made.append(photo)
        else:
            made.append(replace(photo, mask=weights, made_mask=mask))
        if on_progress:
            on_progress(done, len(photos))
    return tuple(made), tuple(remarks)
