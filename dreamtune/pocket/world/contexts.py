"""The ten contexts: what lies behind the subjects. Details come from the scene's own random generator."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

from .brush import CANVAS as S
from .brush import mix
from .scene import COLORS, RGB

TINTS: dict[str, tuple[float, float, float]] = {
    "night": (0.68, 0.72, 0.88),
    "water": (0.78, 0.95, 1.0),
    "forest": (0.94, 0.98, 0.92),
}
"""How a context's light colors the subjects; (1, 1, 1) elsewhere."""


def jitter(rng: Random, color: RGB, amount: int = 12) -> RGB:
    """A color near `color`: each channel moved by at most `amount`."""
    r, g, b = (max(0, min(255, v + rng.randint(-amount, amount))) for v in color)
    return r, g, b


class _Painter:
    def __init__(self, image: Image.Image, rng: Random) -> None:
        self.draw, self.rng = ImageDraw.Draw(image), rng
        self.horizon = int(S * rng.uniform(0.5, 0.66))

    def near(self, color: RGB) -> RGB:
        return jitter(self.rng, color)

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: RGB) -> None:
        self.draw.rectangle((x0, y0, x1, y1), fill=color)

    def oval(self, x: float, y: float, rx: float, ry: float, color: RGB) -> None:
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=color)

    def ground(self, sky: RGB, floor: RGB) -> None:
        self.rect(0, 0, S, self.horizon, self.near(sky))
        self.rect(0, self.horizon, S, S, self.near(floor))


def _beach(p: _Painter) -> None:
    rng, sea = p.rng, p.horizon
    sand = int(sea + S * rng.uniform(0.08, 0.16))
    p.rect(0, 0, S, sea, p.near((150, 205, 240)))
    p.rect(0, sea - int(S * 0.14), S, sand, p.near((40, 130, 190)))
    p.rect(0, sand, S, S, p.near((240, 215, 150)))
    if rng.random() < 0.6:
        p.oval(rng.randint(18, S - 18), rng.randint(18, 42), 15, 15, (255, 230, 90))
    if rng.random() < 0.4:
        x = rng.choice([rng.randint(14, 34), rng.randint(S - 34, S - 14)])
        p.draw.line([(x, sand + 14), (x, sand - 40)], fill=(120, 90, 60), width=5)
        shade = p.near(COLORS[rng.choice(["red", "yellow", "blue", "pink"])])
        p.draw.pieslice((x - 28, sand - 62, x + 28, sand - 12), 180, 360, fill=shade)


def _snow(p: _Painter) -> None:
    rng, h0 = p.rng, p.horizon
    p.rect(0, 0, S, h0, p.near((190, 205, 225)))
    for _ in range(rng.randint(1, 3)):
        x, h = rng.randint(0, S), rng.randint(40, 76)
        p.draw.polygon([(x - h * 0.42, h0 + 4), (x + h * 0.42, h0 + 4), (x, h0 - h)], fill=p.near((60, 110, 90)))
        cap = [(x - h * 0.19, h0 - h * 0.55), (x + h * 0.19, h0 - h * 0.55), (x, h0 - h)]
        p.draw.polygon(cap, fill=(245, 248, 250))
    p.rect(0, h0, S, S, p.near((240, 244, 250)))
    for _ in range(rng.randint(4, 9)):
        p.oval(rng.randint(0, S), rng.randint(0, h0), 4, 4, (255, 255, 255))


def _forest(p: _Painter) -> None:
    rng, h0 = p.rng, p.horizon
    p.ground((80, 130, 85), (78, 95, 48))
    for _ in range(rng.randint(3, 6)):
        x, w = rng.randint(0, S), rng.randint(8, 14)
        p.rect(x - w, 0, x + w, h0 + rng.randint(0, 12), p.near((90, 62, 40)))
    for _ in range(rng.randint(3, 5)):
        p.oval(rng.randint(0, S), rng.randint(-8, 22), rng.randint(26, 46), rng.randint(16, 28), p.near((40, 95, 45)))


def _night(p: _Painter) -> None:
    rng = p.rng
    p.ground((18, 20, 52), (34, 46, 54))
    for _ in range(rng.randint(4, 10)):
        p.oval(rng.randint(0, S), rng.randint(0, p.horizon - 6), 3, 3, (225, 225, 195))
    x, y = rng.randint(22, S - 22), rng.randint(20, 42)
    p.oval(x, y, 16, 16, (240, 235, 195))
    if rng.random() < 0.5:
        p.oval(x + 8, y - 4, 14, 14, (18, 20, 52))


def _carpet(p: _Painter) -> None:
    rng, h0 = p.rng, p.horizon
    p.ground((225, 205, 165), (185, 25, 45))
    p.rect(0, h0, S, h0 + 8, (225, 185, 70))
    if rng.random() < 0.5:
        for x in (rng.randint(8, 22), S - rng.randint(8, 22)):
            p.rect(x - 4, h0 - 36, x + 4, h0 + 14, (215, 175, 60))
            p.oval(x, h0 - 38, 9, 9, (215, 175, 60))


def _city(p: _Painter) -> None:
    rng, h0 = p.rng, p.horizon
    p.ground((175, 195, 215), (95, 95, 100))
    x = -rng.randint(0, 20)
    while x < S:
        w, h = rng.randint(34, 56), rng.randint(46, h0 - 6)
        wall = rng.choice([(120, 125, 140), (95, 105, 125), (150, 140, 135)])
        p.rect(x, h0 - h, x + w, h0, p.near(wall))
        for wy in range(h0 - h + 9, h0 - 14, 22):
            for wx in range(x + 7, x + w - 12, 18):
                p.rect(wx, wy, wx + 8, wy + 9, (240, 225, 150))
        x += w + rng.randint(0, 6)
    for x in range(rng.randint(-24, 0), S, 56):
        p.rect(x, int(S * 0.9), x + 28, int(S * 0.9) + 5, (230, 225, 190))


def _grass(p: _Painter) -> None:
    rng = p.rng
    p.ground((135, 200, 245), (95, 180, 70))
    for _ in range(rng.randint(1, 2)):
        x, y = rng.randint(0, S), rng.randint(16, 42)
        for dx in (-14, 0, 14):
            p.oval(x + dx, y + abs(dx) // 4, 15, 10, (250, 250, 252))
    for _ in range(rng.randint(2, 6)):
        flower = rng.choice([(250, 240, 100), (250, 150, 190), (255, 255, 255)])
        p.oval(rng.randint(0, S), rng.randint(p.horizon + 8, S), 5, 5, flower)


def _water(p: _Painter) -> None:
    rng, top, bottom = p.rng, p.near((40, 130, 205)), p.near((15, 65, 140))
    for i in range(8):
        p.rect(0, i * S // 8, S, (i + 1) * S // 8, mix(top, bottom, i / 7))
    p.rect(0, int(S * 0.9), S, S, p.near((190, 170, 120)))
    for _ in range(rng.randint(1, 3)):
        x, h, y = rng.randint(0, S), rng.randint(34, 80), int(S * 0.93)
        path = [(x, y), (x + 7, y - h // 3), (x - 6, y - 2 * h // 3), (x + 4, y - h)]
        p.draw.line(path, fill=p.near((40, 140, 80)), width=9)
    for _ in range(rng.randint(3, 7)):
        x, y, r = rng.randint(0, S), rng.randint(0, S), rng.randint(5, 8)
        p.draw.ellipse((x - r, y - r, x + r, y + r), outline=(170, 210, 245), width=3)


def _desert(p: _Painter) -> None:
    rng, h0 = p.rng, p.horizon
    p.rect(0, 0, S, S, p.near((250, 205, 140)))
    p.oval(rng.randint(18, S - 18), rng.randint(18, 46), 16, 16, (255, 245, 200))
    p.draw.ellipse((-60, h0 - 25, S * 0.7, h0 + 140), fill=p.near((225, 165, 90)))
    p.draw.ellipse((S * 0.3, h0 - 12, S + 80, h0 + 150), fill=p.near((215, 150, 80)))
    p.rect(0, h0 + 18, S, S, p.near((222, 160, 88)))
    x, h, green = rng.choice([rng.randint(14, 36), rng.randint(S - 36, S - 14)]), rng.randint(40, 62), (50, 125, 70)
    p.draw.line([(x, h0 + 20), (x, h0 + 20 - h)], fill=green, width=11)
    p.draw.line([(x - 15, h0 - h // 2), (x - 15, h0 + 2), (x, h0 + 2)], fill=green, width=8)
    p.draw.line([(x + 15, h0 - h // 2 - 6), (x + 15, h0 - 4), (x, h0 - 4)], fill=green, width=8)


def _room(p: _Painter) -> None:
    rng, h0 = p.rng, p.horizon
    p.ground(rng.choice([(235, 225, 205), (200, 215, 225), (225, 205, 210), (205, 220, 195)]), (170, 120, 75))
    for y in range(h0 + 20, S, 28):
        p.rect(0, y, S, y + 2, (145, 100, 62))
    p.rect(0, h0 - 4, S, h0 + 4, (245, 245, 240))
    if rng.random() < 0.75:
        x = rng.randint(8, S - 60)
        p.rect(x, 14, x + 52, 62, (250, 250, 250))
        p.rect(x + 6, 20, x + 46, 56, (150, 205, 240))
        p.rect(x + 23, 14, x + 29, 62, (250, 250, 250))


_PAINT: dict[str, Callable[[_Painter], None]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "night": _night,
    "carpet": _carpet,
    "city": _city,
    "grass": _grass,
    "water": _water,
    "desert": _desert,
    "room": _room,
}


def paint(image: Image.Image, context: str, seed: int) -> None:
    """Fill `image` (CANVAS x CANVAS) with a context; the same context and seed give the same pixels."""
    _PAINT[context](_Painter(image, Random(seed)))
