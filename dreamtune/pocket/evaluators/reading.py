"""What the evaluators say of a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One subject that was found in a picture."""

    cls: str
    color: str
    pattern: str
    pattern_color: str | None
    """None when the pattern is plain."""
    hat: str | None
    """Color of the hat, None without one."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 as fractions of the picture's side."""
    score: float
    """How certain it is that a subject is there, 0..1."""

    @property
    def colors(self) -> tuple[str, ...]:
        """Colors that a caption may call the subject's own.

        Stripes cover half of the coat: which of the two colors is meant cannot be seen.
        """
        second = self.pattern_color if self.pattern == "striped" else None
        return (self.color,) if second is None else (self.color, second)


@dataclass(frozen=True)
class Reading:
    """One picture, read."""

    context: str
    subjects: tuple[Found, ...]
    """At most two, from left to right; never none: in doubt the likeliest place."""

    @property
    def main(self) -> Found:
        """The subject that is there most certainly."""
        return max(self.subjects, key=lambda s: s.score)
