"""What a pocket picture shows: frozen descriptions of subjects, placements and scenes.

A scene is complete: `render(scene)` is a pure function of it. Traits that no caption can express (pattern geometry,
accent colors, proportions, variants) are what personalization has to carry over.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]

COLORS: dict[str, RGB] = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (245, 215, 50),
    "green": (50, 160, 70),
    "blue": (45, 100, 215),
    "purple": (135, 60, 180),
    "pink": (245, 140, 185),
    "brown": (130, 80, 45),
    "black": (45, 42, 48),
    "white": (242, 242, 240),
    "gray": (140, 142, 148),
}
PATTERNS = ("plain", "striped", "spotted")
CLASSES = (
    "dog",
    "cat",
    "bird",
    "fish",
    "car",
    "house",
    "tree",
    "teapot",
    "robot",
    "mug",
    "backpack",
    "boat",
)
HAT_CLASSES = frozenset({"dog", "cat", "bird", "fish", "robot", "teapot", "mug", "backpack"})
CONTEXTS: dict[str, str] = {
    "beach": "on the beach",
    "snow": "in the snow",
    "forest": "in the forest",
    "night": "at night",
    "carpet": "on a red carpet",
    "city": "in the city",
    "grass": "on the grass",
    "water": "under water",
    "desert": "in the desert",
    "room": "in a room",
}
"""Context name -> the words captions use for it."""

SIZES = ("small", "mid", "big")
SIDES = ("left", "center", "right")


@dataclass(frozen=True)
class Hat:
    """A hat: `kind` 0 is a party cone, 1 a top hat, 2 a cap."""

    color: str
    rgb: RGB
    kind: int


@dataclass(frozen=True)
class Subject:
    """One individual. A caption can say `cls`, `color`, `pattern`, `pattern_color` and `hat`, not the rest."""

    cls: str
    color: str
    rgb: RGB
    pattern: str
    pattern_color: str
    pattern_rgb: RGB
    accent_rgb: RGB
    eye_rgb: RGB
    collar_rgb: RGB | None
    hat: Hat | None
    variant: int
    """0, 1 or 2: the shape of ears, roof, crown, sail."""
    proportions: tuple[float, ...]
    """Six numbers in 0..1 that stretch body, head, legs, handles."""
    stripes: tuple[float, float, float] = (0.0, 0.4, 0.0)
    """Angle in radians, period and phase of the stripes, in subject units (the subject spans -1..1)."""
    spots: tuple[tuple[float, float, float], ...] = ()
    """(x, y, radius) of every spot, in subject units."""


@dataclass(frozen=True)
class Placement:
    """Where and how a subject stands. Lengths are fractions of the picture's side."""

    x: float
    y: float
    scale: float
    """Half of the subject's extent."""
    rotation: float = 0.0
    """Radians."""
    flip: bool = False
    pose: tuple[float, float] = (0.5, 0.5)
    """Two numbers in 0..1: limbs (tail, legs, arm) and head."""
    size: str = "mid"
    side: str = "center"


@dataclass(frozen=True)
class Scene:
    """Subjects at their placements in a context; `seed` fixes the context's details (clouds, trees, windows)."""

    context: str
    seed: int
    subjects: tuple[Subject, ...]
    placements: tuple[Placement, ...]

    def __post_init__(self) -> None:
        """Check the description; ValueError names what is wrong."""
        if self.context not in CONTEXTS:
            raise ValueError(f"unknown context {self.context!r}: choose from {', '.join(CONTEXTS)}")
        if len(self.subjects) != len(self.placements):
            raise ValueError(f"{len(self.subjects)} subjects but {len(self.placements)} placements")
        for subject in self.subjects:
            if subject.cls not in CLASSES:
                raise ValueError(f"unknown class {subject.cls!r}: choose from {', '.join(CLASSES)}")
            if subject.pattern not in PATTERNS:
                raise ValueError(f"unknown pattern {subject.pattern!r}: choose from {', '.join(PATTERNS)}")
