"""Pictures of pocket subjects, as if photographed: one individual in changing poses and places."""

from __future__ import annotations

from random import Random

from PIL import Image

from .world import CONTEXTS, DEFAULT_SIZE, Subject, random_scene, random_subject, render

PHOTO_SIZES = ("mid", "big", "big")
"""How large the subject stands in its photographs."""


def photographs(
    subject: Subject, n: int, seed: int, size: int | None = None, contexts: tuple[str, ...] = tuple(CONTEXTS)
) -> list[Image.Image]:
    """`n` pictures of `subject` alone, each in another of `contexts` as long as there are some left.

    size: side in pixels, by default that of the shipped base. ValueError when n is less than 1, the size cannot be
    drawn, or a context is unknown or none is given.
    """
    if n < 1:
        raise ValueError(f"n = {n} must be at least 1")
    if not contexts:
        raise ValueError("contexts is empty: name at least one place")
    side = DEFAULT_SIZE if size is None else size
    rng = Random(f"photographs {seed}")
    places: list[str] = []
    while len(places) < n:
        places += rng.sample(contexts, len(contexts))
    scenes = [random_scene(rng, [subject], c, rng.choice(PHOTO_SIZES), "center") for c in places[:n]]
    return [Image.fromarray(render(s, side).image) for s in scenes]


def draw_subject(seed: int, n: int, size: int | None = None, cls: str | None = None) -> list[Image.Image]:
    """`n` photographs of the individual that `seed` (and class `cls`, if given) stands for; errors as `photographs`."""
    return photographs(random_subject(Random(f"subject {seed}"), cls), n, seed, size)
