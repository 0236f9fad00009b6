"""A brush that draws one subject's polygons through an affine map, on the picture and on the subject's mask at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from .scene import RGB, Placement, Subject

CANVAS = 192
"""Side of the drawing canvas in pixels; pictures are reduced from it (64 = /3, 48 = /4)."""

Point = tuple[float, float]
_CIRCLES = {n: [(math.cos(2 * math.pi * i / n), math.sin(2 * math.pi * i / n)) for i in range(n)] for n in (10, 14, 22)}


def shade(color: RGB, factor: float) -> RGB:
    """`color` times `factor`, clipped to 0..255."""
    r, g, b = (max(0, min(255, int(v * factor))) for v in color)
    return r, g, b


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Linear blend of two colors; `share` of `b`."""
    r, g, b_ = (int(x * (1 - share) + y * share) for x, y in zip(a, b, strict=True))
    return r, g, b_


class Brush:
    """Draws in subject units: x and y in -1..1, y down, the ground at y = 1."""

    def __init__(
        self, image: Image.Image, mask: Image.Image, subject: Subject, placement: Placement, tint: tuple[float, ...]
    ) -> None:
        self.subject = subject
        self.pose = placement.pose
        self._image = image
        self._draw = ImageDraw.Draw(image)
        self._mask = ImageDraw.Draw(mask)
        self._tint = tint
        self.scale = placement.scale * CANVAS
        c, s = math.cos(placement.rotation), math.sin(placement.rotation)
        f = -1.0 if placement.flip else 1.0
        k = self.scale
        self._map = (k * c * f, -k * s, placement.x * CANVAS, k * s * f, k * c, placement.y * CANVAS)
        self._pattern = self._pattern_mask()

    def _pattern_mask(self) -> Image.Image | None:
        subject = self.subject
        if subject.pattern == "plain":
            return None
        mask = Image.new("L", (CANVAS, CANVAS), 0)
        draw = ImageDraw.Draw(mask)
        if subject.pattern == "striped":
            angle, period, phase = subject.stripes
            ca, sa = math.cos(angle), math.sin(angle)
            left = -1.8 + phase * period
            while left < 1.8:
                band = [(left, -2.2), (left + period * 0.5, -2.2), (left + period * 0.5, 2.2), (left, 2.2)]
                draw.polygon([self._at(x * ca - y * sa, x * sa + y * ca) for x, y in band], fill=255)
                left += period
        else:
            for x, y, radius in subject.spots:
                px, py = self._at(x, y)
                r = radius * self.scale
                draw.ellipse((px - r, py - r, px + r, py + r), fill=255)
        return mask

    def _at(self, x: float, y: float) -> Point:
        m = self._map
        return m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]

    def _color(self, color: RGB) -> RGB:
        t = self._tint
        return int(color[0] * t[0]), int(color[1] * t[1]), int(color[2] * t[2])

    def poly(self, points: Sequence[Point], color: RGB, *, coat: bool = False, outline: bool = True) -> None:
        """Fill a polygon; `coat` lays the subject's pattern over it."""
        corners = [self._at(x, y) for x, y in points]
        self._draw.polygon(corners, fill=self._color(color))
        self._mask.polygon(corners, fill=255)
        if coat and self._pattern is not None:
            xs, ys = [p[0] for p in corners], [p[1] for p in corners]
            box = (
                max(0, int(min(xs))),
                max(0, int(min(ys))),
                min(CANVAS, int(max(xs)) + 2),
                min(CANVAS, int(max(ys)) + 2),
            )
            if box[2] > box[0] and box[3] > box[1]:
                area = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
                ImageDraw.Draw(area).polygon([(x - box[0], y - box[1]) for x, y in corners], fill=255)
                area = ImageChops.darker(area, self._pattern.crop(box))
                self._image.paste(self._color(self.subject.pattern_rgb), box[:2], area)
        if outline:
            line = shade(color, 0.6) if sum(color) > 210 else (95, 95, 100)
            self._draw.line([*corners, corners[0], corners[1]], fill=self._color(line), width=2)

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        color: RGB,
        *,
        coat: bool = False,
        tilt: float = 0.0,
        outline: bool = True,
        corners: int = 22,
    ) -> None:
        """Fill an ellipse centerd at (x, y), turned by `tilt` radians."""
        a, b = math.cos(tilt), math.sin(tilt)
        points = [(x + rx * u * a - ry * v * b, y + rx * u * b + ry * v * a) for u, v in _CIRCLES[corners]]
        self.poly(points, color, coat=coat, outline=outline)

    def rect(
        self, x0: float, y0: float, x1: float, y1: float, color: RGB, *, coat: bool = False, outline: bool = True
    ) -> None:
        """Fill a rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, coat=coat, outline=outline)

    def line(self, points: Sequence[Point], width: float, color: RGB) -> None:
        """Draw a thick line; `width` in subject units."""
        path = [self._at(x, y) for x, y in points]
        thick = max(2, int(width * self.scale))
        self._draw.line(path, fill=self._color(color), width=thick, joint="curve")
        self._mask.line(path, fill=255, width=thick, joint="curve")

    def eye(self, x: float, y: float, radius: float) -> None:
        """A round eye in the subject's eye color."""
        self.oval(x, y, radius, radius, (250, 250, 250), outline=False, corners=10)
        self.oval(x + radius * 0.2, y, radius * 0.6, radius * 0.65, (20, 20, 25), outline=False, corners=10)

    def hat(self, x: float, y: float, width: float) -> None:
        """The subject's hat, standing on (x, y)."""
        hat = self.subject.hat
        if hat is None:
            return
        w, c = width * 1.1, hat.rgb
        if hat.kind == 0:
            self.poly([(x - w, y), (x + w, y), (x, y - w * 1.9)], c)
            self.oval(x, y - w * 1.9, w * 0.28, w * 0.28, (250, 250, 245), corners=10)
        elif hat.kind == 1:
            self.rect(x - w * 0.7, y - w * 1.3, x + w * 0.7, y, c)
            self.rect(x - w * 1.2, y - w * 0.22, x + w * 1.2, y + w * 0.1, c)
        else:
            crown = [(-0.95, 0.0), (-0.85, -0.65), (-0.3, -1.05), (0.3, -1.05), (0.85, -0.65), (0.95, 0.0)]
            self.poly([(x + w * u, y + w * v) for u, v in crown], c)
            self.poly([(x + w * 0.3, y - w * 0.3), (x + w * 1.7, y - w * 0.1), (x + w * 1.7, y + w * 0.14), (x, y)], c)

    def collar(self, x: float, y: float, width: float, height: float) -> None:
        """The subject's collar or ribbon, centerd at (x, y)."""
        color = self.subject.collar_rgb
        if color is not None:
            self.rect(x - width, y - height, x + width, y + height, color, outline=False)
