"""The pocket world: small pictures whose content, masks and identities are known exactly.

Needs numpy and pillow only. A scene is a frozen description; `render` turns it into pixels deterministically.
"""

from .captions import IDENTIFIERS, caption, phrase, vocabulary
from .render import DEFAULT_SIZE, Rendered, render
from .sample import look_alike, random_placement, random_scene, random_subject
from .scene import CLASSES, COLORS, CONTEXTS, HAT_CLASSES, PATTERNS, SIDES, SIZES, Hat, Placement, Scene, Subject

__all__ = [
    "CLASSES",
    "COLORS",
    "CONTEXTS",
    "DEFAULT_SIZE",
    "HAT_CLASSES",
    "IDENTIFIERS",
    "PATTERNS",
    "SIDES",
    "SIZES",
    "Hat",
    "Placement",
    "Rendered",
    "Scene",
    "Subject",
    "caption",
    "look_alike",
    "phrase",
    "random_placement",
    "random_scene",
    "random_subject",
    "render",
    "vocabulary",
]
