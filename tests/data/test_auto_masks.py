"""Masks that training makes of pictures without one."""

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from dreamtune.data.auto_masks import enlarged, with_masks
from dreamtune.data.buckets import Framing
from dreamtune.data.composites import composite_examples, plan_composites
from dreamtune.data.encode import open_again
from dreamtune.data.subject import Subject, load_subject
from dreamtune.models import Base, load_base
from dreamtune.pocket.world import random_scene, random_subject, render


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("pocket", device="cpu")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Two cats, the second with a mask of its own; the true masks lie beside."""
    rng = Random("auto masks")
    cat = random_subject(rng, "cat")
    for number, place in enumerate(("beach", "grass")):
        drawn = render(random_scene(rng, [cat], place, "big", "center"), 48)
        Image.fromarray(drawn.image).save(tmp_path / f"{number}.png")
        np.save(tmp_path.with_name(f"true-{number}.npy"), drawn.masks[0])
    Image.fromarray(np.tri(48, dtype=np.uint8) * 255).save(tmp_path / "1.mask.png")
    return load_subject(tmp_path, "cat", framing=Framing(48, buckets=False, cell=4))


def test_only_pictures_without_one_get_a_mask(base: Base, subject: Subject, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    photos, remarks = with_masks(base, subject.photos, "cat", open_again, 4)
    assert not remarks
    made, own = photos
    assert own is subject.photos[1]
    assert made.made_mask is not None and made.mask is not None and made.mask.shape == (12, 12)
    true = np.load(tmp_path.with_name("true-0.npy"))
    assert (made.made_mask & true).sum() / (made.made_mask | true).sum() > 0.6
    assert sorted(tmp_path.iterdir()) == before, "nothing is written"


def test_composites_cut_the_subject_out_by_it(base: Base, subject: Subject) -> None:
    photos, _ = with_masks(base, subject.photos[:1], "cat", open_again, 4)
    masked = replace(subject, photos=photos, captions=subject.captions[:1])
    cut, remarks = plan_composites(masked, ("mug",), 0)
    whole, _ = plan_composites(replace(masked, photos=subject.photos[:1]), ("mug",), 0)
    assert cut and not remarks
    mugs = {"mug": base.encode_images(torch.zeros(1, 3, 48, 48)).expand(16, -1, -1, -1)}
    (one,), (other,) = (composite_examples(base, it[:1], mugs, lambda _: (0,), 48) for it in (cut, whole))
    assert one.mask is not None and other.mask is not None
    assert 0.9 < float(one.mask.max()) <= 1 and not one.mask.equal(other.mask)


def test_made_masks_are_enlarged_black_and_white() -> None:
    large = enlarged(np.eye(4, dtype=bool), (40, 40))
    assert large.size == (40, 40) and set(np.unique(np.asarray(large))) == {0, 255}
