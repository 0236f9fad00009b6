"""Composites: who stands where, what counts in the loss, what is left out and why."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamtune.data.buckets import Framing
from dreamtune.data.cache import Cache
from dreamtune.data.composing import beside
from dreamtune.data.composites import (
    COMPOSITES,
    Composite,
    composite_examples,
    mask_digest,
    others_of_each,
    plan_composites,
)
from dreamtune.data.subject import Subject, load_subject
from dreamtune.errors import ConfigError, DatasetError
from dreamtune.models import load_base
from tests.data.mess import noise

SQUARE = Framing(32, buckets=False, cell=4, step=8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain(color: tuple[int, int, int], width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def pictures(folder: Path, box: tuple[int, int, int, int] | None = None, count: int = 3) -> Subject:
    """A folder of red pictures on noise, with masks of `box` if given."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        image = noise(index, (64, 64))
        image.paste(RED, box or (0, 0, 64, 64))
        image.putpixel((0, 0), (index, 0, 0))
        image.save(folder / f"{index}.png")
        if box is not None:
            mask = Image.new("L", (64, 64))
            mask.paste(255, box)
            mask.save(folder / f"{index}.mask.png")
    return load_subject(folder, "dog", framing=SQUARE)


@pytest.mark.parametrize("on", ["left", "right"])
def test_side_by_side(on: str) -> None:
    """Without a mask: each picture in its half, and what is beside a picture or at the seam counts nothing."""
    image, weight = beside(plain(RED, 22, 22), None, plain(BLUE, 32, 32), on, 0.5, 4)  # pyright: ignore[reportArgumentType]
    pixels, weights = np.asarray(image), np.asarray(weight)
    own, other = (slice(0, 16), slice(16, 32)) if on == "left" else (slice(16, 32), slice(0, 16))
    assert (pixels[:, own] == RED).all() and (pixels[:, other] == BLUE).all()
    assert (weights[:, 12:20] == 0).all() and (weights[0] == 0).all()
    assert set(np.unique(weights[:, own])) == {0, 255} and set(np.unique(weights[:, other])) == {0, 128}


@pytest.mark.parametrize("on", ["left", "right"])
def test_cut_out(on: str) -> None:
    """With a mask only what it shows is laid over the other picture, and counts."""
    mask = Image.new("L", (10, 16), 0)
    mask.paste(255, (2, 0, 8, 16))
    image, weight = beside(plain(RED, 10, 16), mask, plain(BLUE, 32, 32), on, 1.0, 4)  # pyright: ignore[reportArgumentType]
    red = (np.asarray(image) == RED).all(-1)
    assert red.sum() == 6 * 16
    assert ((np.asarray(weight) == 255) == red).all()
    columns = np.flatnonzero(red.any(0))
    assert columns.max() < 16 if on == "left" else columns.min() >= 16
    assert ((np.asarray(image) == BLUE).all(-1) | red).all()


def test_captions_name_it_first_and_second(tmp_path: Path) -> None:
    (photo, *_) = pictures(tmp_path / "a").photos
    assert Composite(photo, "right", "apple", 0, 0.5).captions("sks dog") == (
        "a sks dog on the right and an apple on the left",
        "an apple on the left and a sks dog on the right",
        "an apple on the left and a sks dog on the right",
        "an apple and a sks dog",
    )


def test_all_pictures_at_both_sides_beside_all_things(tmp_path: Path) -> None:
    subject = pictures(tmp_path / "a")
    plan, remarks = plan_composites(subject, ["mug", "boat"], 0)
    assert not remarks and len(plan) == COMPOSITES
    seen = Counter((it.photo.file, it.on, it.other) for it in plan)
    assert len(seen) == 3 * 2 * 2 and max(seen.values()) == min(seen.values())
    assert all(0 <= it.number < others_of_each(["mug", "boat"]) for it in plan)
    assert plan_composites(subject, ["mug", "boat"], 0)[0] == plan
    assert plan_composites(subject, ["mug", "boat"], 1)[0] != plan


def test_examples_are_made_once(tiny: Path, tmp_path: Path) -> None:
    """Equal on the same base, weighed by latent cell, from the cache the second time."""
    base = load_base(tiny, "cpu")
    subject = pictures(tmp_path / "a", (16, 8, 48, 60))
    plan = plan_composites(subject, ["mug"], 0)[0][:4]
    drawn = {
        "mug": torch.randn(16, 4, 32 // base.factor, 32 // base.factor, generator=torch.Generator().manual_seed(0))
    }
    told: list[tuple[int, int]] = []
    found = [
        composite_examples(base, plan, drawn, lambda it: (3, 4), 32, Cache("latents"), lambda *done: told.append(done))
        for _ in range(2)
    ]
    assert told[3:5] == [(4, 4), (1, 4)]
    for one, other, composite in zip(*found, plan, strict=True):
        assert torch.equal(one.latent, other.latent)
        assert one.prompts == (3, 4)
        assert one.mask is not None and one.mask.shape == one.latent.shape[1:]
        half = one.mask.shape[1] // 2
        own, there = one.mask[:, :half], one.mask[:, half:]
        own, there = (own, there) if composite.on == "left" else (there, own)
        assert own.max() == 1 and there.max() == pytest.approx(0.5, abs=0.01)


def test_what_is_left_out(tmp_path: Path) -> None:
    """With a reason; it is an error only where nothing is left."""
    with pytest.raises(
        DatasetError,
        match="no image can be used.*at 8x8 pixels, which.*upscale 3.6 times.*paint more of the mask white$",
    ):
        pictures(tmp_path / "small", (8, 8, 16, 16))
        large = Framing(64, buckets=False, cell=4, step=8)
        plan_composites(load_subject(tmp_path / "small", "dog", framing=large), ["mug"], 0)
    subject = pictures(tmp_path / "part", (8, 8, 56, 56))
    _, (remark, *others) = plan_composites(pictures(tmp_path / "whole", (0, 0, 64, 64)), ["mug"], 0)
    assert "has a mask that shows everything; composites show the whole image" in str(remark) and len(others) == 2
    faint = Image.new("L", (64, 64))
    faint.paste(60, (8, 8, 56, 56))
    faint.save(tmp_path / "part" / "0.mask.png")
    plan, (remark,) = plan_composites(load_subject(tmp_path / "part", "dog", framing=SQUARE), ["mug"], 0)
    assert "0.png: has a mask that shows almost nothing; composites leave it out" in str(remark)
    assert {it.photo.file for it in plan} == {"1.png", "2.png"}
    with pytest.raises(ConfigError, match="resolution = 32 is too small for composites.*use at least 64"):
        plan_composites(load_subject(tmp_path / "part", "dog", framing=Framing(32, cell=8)), ["mug"], 0)
    assert len(subject.photos) == 3


def test_masks_decide_what_is_seen(tmp_path: Path) -> None:
    """Also where a change of one is too fine for the weights of latent cells."""
    plan, _ = plan_composites(pictures(tmp_path / "a", (8, 8, 56, 56)), ["mug"], 0)
    before = mask_digest(plan)
    assert mask_digest(plan) == before
    mask = Image.open(tmp_path / "a" / "0.mask.png")
    mask.putpixel((30, 30), 0)
    mask.save(tmp_path / "a" / "0.mask.png")
    assert mask_digest(plan) != before
    (tmp_path / "a" / "0.mask.png").unlink()
    with pytest.raises(DatasetError, match="cannot re-read the mask .*0.mask.png"):
        mask_digest(plan)
