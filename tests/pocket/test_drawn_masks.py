"""Masks of pictures as the embedded base draws them, beside the renderer's own."""

from random import Random

import numpy as np
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
