"""How things are drawn. Each function draws one subject with a Brush; `g` are its proportions."""

from __future__ import annotations

import math

from .brush import Brush, shade

GLASS = (190, 225, 245)
LIT = (250, 235, 150)


def car(b: Brush) -> None:
    """Car, side view: body by variant (2 is a pick-up), hubcaps in the accent color; the one subject without poses."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    length, h, cab = 0.95, 0.3 + 0.12 * g[0], 0.32 + 0.14 * g[1]
    base, x0, x1 = 0.78, -0.55 + 0.25 * g[2], 0.35 + 0.25 * g[3]
    roof = base - h - cab
    if s.variant == 2:
        b.rect(-length * 0.2, roof, length * 0.6, base - h, c, coat=True)
        b.rect(0.08, roof + 0.09, length * 0.5, base - h - 0.03, GLASS)
    else:
        b.poly([(x0 - 0.2, base - h), (x0 + 0.05, roof), (x1 - 0.05, roof), (x1 + 0.22, base - h)], c, coat=True)
        sill, lintel = base - h - 0.02, roof + 0.09
        b.poly([(x0 - 0.05, sill), (x0 + 0.1, lintel), (-0.03, lintel), (-0.03, sill)], GLASS, outline=False)
        b.poly([(0.06, sill), (0.06, lintel), (x1 - 0.08, lintel), (x1 + 0.08, sill)], GLASS, outline=False)
    body = [(-length, base), (-length, base - h * 0.8), (-length + 0.1, base - h), (length - 0.15, base - h)]
    b.poly([*body, (length, base - h * 0.6), (length, base)], c, coat=True)
    radius = 0.2 + 0.06 * g[4]
    for x in (-0.52, 0.52):
        b.oval(x, base, radius, radius, (35, 35, 38))
        b.oval(x, base, radius * 0.5, radius * 0.5, s.accent_rgb, outline=False, corners=10)
    b.oval(length - 0.08, base - h * 0.55, 0.09, 0.09, (255, 240, 150), corners=10)


def house(b: Brush) -> None:
    """House, front view: roof by variant in the accent color, a lit window by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    w, h, r = 0.6 + 0.22 * g[0], 0.7 + 0.28 * g[1], 0.45 + 0.28 * g[2]
    if g[5] > 0.5:
        b.rect(w * 0.35, 1 - h - r * 0.9, w * 0.62, 1 - h - 0.1, (150, 90, 80))
    b.rect(-w, 1 - h, w, 1, c, coat=True)
    if s.variant == 0:
        b.poly([(-w - 0.15, 1 - h), (w + 0.15, 1 - h), (0, 1 - h - r)], s.accent_rgb)
    elif s.variant == 1:
        roof = [(-w - 0.12, 1 - h), (w + 0.12, 1 - h), (w * 0.6, 1 - h - r * 0.8), (-w * 0.6, 1 - h - r * 0.8)]
        b.poly(roof, s.accent_rgb)
    else:
        b.rect(-w - 0.1, 1 - h - 0.22, w + 0.1, 1 - h, s.accent_rgb)
    door = -0.32 * w if g[3] > 0.5 else 0.32 * w
    light = LIT if b.pose[0] > 0.5 else GLASS
    b.rect(door - 0.16, 0.52, door + 0.16, 1, (110, 65, 40))
    b.rect(-door - 0.17, 0.42, -door + 0.17, 0.74, light)


def tree(b: Brush) -> None:
    """Tree: crown by variant (round, fir, cloud), fruit in the accent color, sway by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    w, r, sway = 0.11 + 0.07 * g[0], 0.52 + 0.18 * g[1], 0.14 * (b.pose[0] - 0.5)
    b.poly([(-w, 0.0), (w, 0.0), (w * 1.5, 1), (-w * 1.5, 1)], (110, 70, 40))
    if s.variant == 0:
        b.oval(sway, -0.25, r, r * 0.9, c, coat=True)
    elif s.variant == 1:
        for i in range(3):
            q, y = 1 - 0.22 * i, 0.4 - 0.42 * i
            b.poly([(-r * q + sway, y), (r * q + sway, y), (sway * 1.5, y - 0.7)], c, coat=True)
    else:
        for dx, dy in ((-0.35, 0.0), (0.35, 0.02), (0.0, -0.4)):
            b.oval(dx + sway, dy - 0.05, r * 0.72, r * 0.66, c, coat=True)
    if g[2] > 0.5:
        for i in range(4):
            a = i * 1.57 + g[3] * 6
            b.oval(0.32 * math.cos(a) + sway, -0.25 + 0.3 * math.sin(a), 0.1, 0.1, s.accent_rgb, corners=10)


def teapot(b: Brush) -> None:
    """Teapot, side view: lid in the accent color, lifted by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    r, h = 0.5 + 0.12 * g[0], 0.4 + 0.15 * g[1]
    y, lift = 1 - h, 0.12 * b.pose[0]
    grip = [(-r * 0.8, y - 0.2), (-r - 0.35, y - 0.28), (-r - 0.35, y + 0.15), (-r * 0.8, y + 0.2)]
    b.line(grip, 0.14, shade(c, 0.75))
    spout = y - 0.33 - 0.24 * g[2]
    b.poly([(r * 0.7, y + 0.24), (r + 0.33, spout), (r + 0.55, spout), (r * 0.8, y - 0.15)], c)
    b.oval(0, y, r, h, c, coat=True)
    b.oval(0, y - h * 0.85 - lift, r * (0.45 + 0.2 * g[3]), 0.13, s.accent_rgb)
    b.oval(0, y - h * 0.85 - 0.16 - lift, 0.11, 0.11, s.accent_rgb, corners=14)
    b.hat(0, y - h * 0.85 - 0.17 - lift, 0.25)


def mug(b: Brush) -> None:
    """Mug, side view: badge by variant in the accent color, steam by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    w, h = 0.42 + 0.13 * g[0], 0.44 + 0.16 * g[1]
    y, foot = 1 - h, (0.42 + 0.13 * g[0]) * (0.72 + 0.28 * g[2])
    grip = 0.28 + 0.14 * g[4]
    b.line(
        [(w * 0.9, y - h * 0.5), (w + grip, y - h * 0.45), (w + grip, y + h * 0.4), (w * 0.9, y + h * 0.45)],
        0.15,
        s.accent_rgb if g[3] > 0.5 else shade(c, 0.75),
    )
    b.poly([(-w, y - h), (w, y - h), (foot, 1), (-foot, 1)], c, coat=True)
    b.oval(0, y - h, w, 0.14, shade(c, 0.8))
    b.oval(0, y - h, w * 0.82, 0.09, (85, 50, 30), outline=False)
    if b.pose[0] > 0.6 and s.hat is None:
        for x in (-0.17, 0.17):
            b.line([(x, y - h - 0.14), (x + 0.08, y - h - 0.27), (x, y - h - 0.42)], 0.08, (225, 225, 225))
    if s.variant == 1:
        b.oval(0, y + 0.05, 0.21, 0.21, s.accent_rgb, corners=14)
    elif s.variant == 2:
        b.rect(-w * 0.9, y - 0.02, w * 0.9, y + 0.18, s.accent_rgb, outline=False)
    b.hat(0, y - h - 0.02, 0.27)


def backpack(b: Brush) -> None:
    """Backpack, front view: pocket in the accent color, straps spread by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    w, h = 0.45 + 0.14 * g[0], 0.55 + 0.14 * g[1]
    y, spread, q = 1 - h, 0.1 * b.pose[0], 0.22
    b.line([(-0.16, y - h), (-0.12, y - h - 0.2), (0.12, y - h - 0.2), (0.16, y - h)], 0.1, shade(c, 0.6))
    for side in (-1, 1):
        b.oval(side * (w + spread), y + 0.2, 0.15, 0.32, shade(c, 0.7))
    shell = [(-w, 1), (-w, y - h + q), (-w + q * 0.8, y - h), (w - q * 0.8, y - h), (w, y - h + q), (w, 1)]
    b.poly(shell, c, coat=True)
    top = y + 0.05 + 0.15 * g[2]
    b.rect(-w * 0.7, top, w * 0.7, 0.94, s.accent_rgb)
    b.line([(-w * 0.7, top + 0.17), (w * 0.7, top + 0.17)], 0.06, shade(s.accent_rgb, 0.5))
    b.hat(0, y - h - 0.05, 0.26)


def boat(b: Brush) -> None:
    """Boat, side view: sail or cabin by variant in the accent color, boom by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    length, y, h, boom = 0.8 + 0.14 * g[0], 0.5, 0.38 + 0.12 * g[1], 0.16 * b.pose[0]
    b.line([(0, y), (0, -0.95)], 0.09, (110, 75, 50))
    if s.variant == 0:
        b.poly([(0.06, -0.9), (0.06, y - 0.12), (0.56 + 0.15 * g[2] + boom, y - 0.12)], s.accent_rgb)
        b.poly([(-0.06, -0.7), (-0.06, y - 0.12), (-0.5 - boom, y - 0.12)], shade(s.accent_rgb, 0.9))
    elif s.variant == 1:
        sail = [(-0.55, -0.75), (0.55, -0.75), (0.45 + boom, y - 0.2), (-0.45 + boom, y - 0.2)]
        b.poly(sail, s.accent_rgb)
    else:
        b.rect(-0.4, y - 0.6, 0.35, y, s.accent_rgb)
        b.oval(0.05, y - 0.32, 0.15, 0.15, GLASS, corners=14)
    b.poly([(-length, y), (length, y), (length - 0.28, y + h), (-length + 0.2, y + h)], c, coat=True)
