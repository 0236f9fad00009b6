"""Drawing subjects and scenes at random. Every function takes a `random.Random` and nothing else is random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from .contexts import jitter
from .scene import CLASSES, COLORS, CONTEXTS, HAT_CLASSES, SIDES, SIZES, Hat, Placement, Scene, Subject

_EYES = ((90, 200, 90), (240, 200, 60), (90, 170, 240), (200, 90, 60))
_PATTERN_WEIGHTS = {"plain": 0.4, "striped": 0.3, "spotted": 0.3}
_SCALES = {"small": (0.2, 0.25), "mid": (0.3, 0.36), "big": (0.4, 0.44)}


def random_subject(
    rng: Random,
    cls: str | None = None,
    color: str | None = None,
    pattern: str | None = None,
    hat: bool | None = None,
    classes: Sequence[str] = CLASSES,
) -> Subject:
    """A new individual; what is given is kept, the rest is drawn. `hat=True` is ignored by classes that wear none."""
    cls = cls or rng.choice(classes)
    color = color or rng.choice(list(COLORS))
    pattern = pattern or rng.choices(list(_PATTERN_WEIGHTS), list(_PATTERN_WEIGHTS.values()))[0]
    others = [c for c in COLORS if c != color]
    pattern_color = rng.choice(others)
    wears = rng.random() < 0.25 if hat is None else hat
    hat_color = rng.choice(list(COLORS))
    return Subject(
        cls=cls,
        color=color,
        rgb=jitter(rng, COLORS[color], 14),
        pattern=pattern,
        pattern_color=pattern_color,
        pattern_rgb=jitter(rng, COLORS[pattern_color], 14),
        accent_rgb=jitter(rng, COLORS[rng.choice(others)], 14),
        eye_rgb=rng.choice(_EYES),
        collar_rgb=jitter(rng, COLORS[rng.choice(others)], 14) if rng.random() < 0.4 else None,
        hat=Hat(hat_color, jitter(rng, COLORS[hat_color], 14), rng.randrange(3))
        if wears and cls in HAT_CLASSES
        else None,
        variant=rng.randrange(3),
        proportions=tuple(rng.random() for _ in range(6)),
        stripes=(
            rng.choice([0.0, 0.0, 1.57, 0.75, -0.75]) + rng.uniform(-0.12, 0.12),
            rng.uniform(0.34, 0.6),
            rng.random(),
        ),
        spots=tuple(_spots(rng)),
    )


def _spots(rng: Random) -> list[tuple[float, float, float]]:
    """Spots of one individual: a jittered lattice, so that no body part stays bare and no two spots melt together."""
    pitch = rng.uniform(0.36, 0.52)
    radius = pitch * rng.uniform(0.24, 0.36)
    dx, dy = rng.random() * pitch, rng.random() * pitch
    count = int(2.6 / pitch) + 1
    return [
        (
            -1.3 + dx + (i + 0.5 * (j % 2)) * pitch + rng.uniform(-0.15, 0.15) * pitch,
            -1.3 + dy + j * pitch + rng.uniform(-0.15, 0.15) * pitch,
            radius * rng.uniform(0.8, 1.2),
        )
        for i in range(count)
        for j in range(count)
    ]


def look_alike(rng: Random, subject: Subject) -> Subject:
    """Another individual that a caption cannot tell from `subject`: same class, color, pattern and hat color."""
    other = random_subject(rng, subject.cls, subject.color, subject.pattern, hat=subject.hat is not None)
    hat = (
        replace(other.hat, color=subject.hat.color, rgb=jitter(rng, COLORS[subject.hat.color], 14))
        if (other.hat is not None and subject.hat is not None)
        else None
    )
    return replace(
        other,
        hat=hat,
        pattern_color=subject.pattern_color,
        pattern_rgb=jitter(rng, COLORS[subject.pattern_color], 14),
    )


def random_placement(rng: Random, context: str, size: str | None = None, side: str | None = None) -> Placement:
    """Where a lone subject stands: on the ground, or floating under water. A big one stands in the center.

    Raises ValueError for an unknown size or side.
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose from {', '.join(SIZES)}")
    if side is not None and side not in SIDES:
        raise ValueError(f"unknown side {side!r}: choose from {', '.join(SIDES)}")
    size = size or rng.choice(["small", "mid", "mid", "mid", "big"])
    side = "center" if size == "big" else side or rng.choice(["left", "center", "center", "right"])
    scale = rng.uniform(*_SCALES[size])
    reach = {"small": 0.24, "mid": 0.33, "big": 0.47}[size]
    x = {"left": rng.uniform(reach, reach + 0.05), "center": rng.uniform(0.46, 0.54)}.get(side)
    if x is None:
        x = 1 - rng.uniform(reach, reach + 0.05)
    lift = rng.uniform(1.0, 1.5) if context == "water" else 1.0
    y = max(rng.uniform(0.88, 0.95) - scale * lift, 0.42 if size != "small" else 0.0)
    return Placement(x, y, scale, rng.uniform(-0.1, 0.1), rng.random() < 0.5, (rng.random(), rng.random()), size, side)


def _pair_placement(rng: Random, context: str, side: str) -> Placement:
    scale = rng.uniform(0.215, 0.245)
    x = rng.uniform(0.25, 0.28)
    lift = rng.uniform(1.0, 1.5) if context == "water" else 1.0
    y = rng.uniform(0.86, 0.95) - scale * lift
    pose = (rng.random(), rng.random())
    return Placement(
        x if side == "left" else 1 - x, y, scale, rng.uniform(-0.08, 0.08), rng.random() < 0.5, pose, "mid", side
    )


def random_scene(
    rng: Random,
    subjects: Sequence[Subject] | None = None,
    context: str | None = None,
    size: str | None = None,
    side: str | None = None,
    pair_share: float = 0.3,
    classes: Sequence[str] = CLASSES,
) -> Scene:
    """A scene of one or two subjects (`pair_share` of two when none are given).

    `size` and `side` place a lone subject; two stand left and right at middle size. Raises ValueError for more than
    two subjects and for words that the world does not know.
    """
    context = context or rng.choice(list(CONTEXTS))
    if subjects is None:
        count = 2 if rng.random() < pair_share else 1
        subjects = [random_subject(rng, classes=classes) for _ in range(count)]
    if len(subjects) == 1:
        placements = [random_placement(rng, context, size, side)]
    elif len(subjects) == 2:
        placements = [_pair_placement(rng, context, s) for s in ("left", "right")]
    else:
        raise ValueError(f"a pocket scene has one or two subjects, not {len(subjects)}")
    return Scene(context, rng.getrandbits(32), tuple(subjects), tuple(placements))
