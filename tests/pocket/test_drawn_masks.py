"""Masks of pictures as the embedded base draws them, beside the renderer's own."""

from random import Random

import numpy as np
import torch
from PIL import Image

from dreamtune.data.auto_masks import drawn_mask
from dreamtune.data.cutout import agreement
from dreamtune.models import load_base
from dreamtune.pocket.world import Scene, random_placement, random_subject, render


def test_the_ground_is_no_part_of_a_subject() -> None:
    base, drawn = load_base("pocket"), list[float]()
    for number, context in enumerate(("carpet", "grass", "carpet", "grass")):
        random = Random(number)
        subject = random_subject(random, "cat")
        scene = Scene(context, number, (subject,), (random_placement(random, context, "mid"),))
        rendered = render(scene, base.resolution)
        picture, truth = Image.fromarray(rendered.image), rendered.masks[0]
        drawn.append(agreement(drawn_mask(base, picture, "cat"), truth))
    assert np.mean(drawn) > 0.75


def test_adapters_that_change_nothing_tell_nothing() -> None:
    base = load_base("pocket")
    subject = random_subject(Random(0), "cat")
    scene = Scene("grass", 0, (subject,), (random_placement(Random(0), "grass", "mid"),))
    picture = Image.fromarray(render(scene, base.resolution).image)
    plain = drawn_mask(base, picture, "cat")
    assert np.array_equal(drawn_mask(base, picture, "cat", torch.zeros(12, 12)), plain)
    left = torch.zeros(12, 12)
    left[:, :6] = 1
    assert not drawn_mask(base, picture, "cat", left)[:, 30:].any(), "what they change nothing of is not theirs"
    assert plain[:, 24:].any()
