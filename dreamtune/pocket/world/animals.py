"""How animals and the robot are drawn. Each function draws one subject with a Brush; `g` are its proportions."""

from __future__ import annotations

from .brush import Brush, mix, shade

WHITE = (255, 255, 255)
DARK = (25, 20, 20)


def dog(b: Brush) -> None:
    """Standing dog, side view: ears by variant, tail and legs by pose."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    dark, limb, head = shade(c, 0.8), b.pose[0], b.pose[1]
    length, belly, leg = 0.6 + 0.16 * g[0], 0.26 + 0.12 * g[1], 0.26 + 0.22 * g[2]
    y = 1 - leg - belly
    tail = 0.2 + 0.8 * limb
    b.poly(
        [
            (-length + 0.05, y - 0.1),
            (-length - 0.38, y - 0.2 - 0.45 * tail),
            (-length - 0.22, y - 0.3 - 0.45 * tail),
            (-length + 0.18, y - 0.2),
        ],
        dark,
    )
    stride = 0.1 * (limb - 0.5)
    for x, color, sign in ((-length + 0.14, dark, 1), (-length + 0.38, c, -1), (length - 0.44, dark, -1)):
        b.rect(x - 0.1 + sign * stride, y + 0.05, x + 0.1 + sign * stride, 1, color)
    b.rect(length - 0.28 + stride, y + 0.05, length - 0.08 + stride, 1, c)
    b.oval(0, y, length, belly, c, coat=True)
    hx, hy, hr = length * 0.95, y - 0.36 - 0.14 * head, 0.31 + 0.08 * g[4]
    b.poly([(length - 0.4, y - 0.05), (hx - 0.15, hy), (hx + 0.2, hy), (length, y + 0.1)], c, coat=True, outline=False)
    b.collar(hx - 0.06, hy + 0.32, 0.23, 0.08)
    b.oval(hx, hy, hr, hr * 0.95, c, coat=True)
    snout = 0.2 + 0.14 * g[5]
    b.oval(hx + hr * 0.95, hy + 0.1, snout, 0.14, mix(c, WHITE, 0.35))
    b.oval(hx + hr * 0.95 + snout * 0.85, hy + 0.05, 0.08, 0.07, DARK, outline=False, corners=10)
    ear = s.accent_rgb if g[3] > 0.5 else shade(c, 0.6)
    if s.variant == 0:
        b.oval(hx - hr * 0.6, hy + 0.1, 0.14, 0.33, ear, tilt=0.15)
    elif s.variant == 1:
        b.poly([(hx - hr * 0.9, hy - 0.1), (hx - hr * 0.55, hy - 0.68), (hx, hy - 0.26)], ear)
    else:
        b.oval(hx - hr * 0.75, hy - 0.22, 0.26, 0.15, ear, tilt=-0.5)
    b.eye(hx + 0.1, hy - 0.08, 0.1)
    b.hat(hx, hy - hr * 0.82, 0.25)


def cat(b: Brush) -> None:
    """Sitting cat, front view: tail by variant and pose, white bib by proportion."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    dark, tail = shade(c, 0.82), b.pose[0]
    bw, bh = 0.35 + 0.16 * g[0], 0.44 + 0.13 * g[1]
    y = 1 - bh
    if s.variant != 2:
        b.line(
            [
                (-bw * 0.8, 0.85),
                (-bw - 0.35, 0.75 - 0.1 * tail),
                (-bw - 0.42, 0.3 - 0.3 * tail),
                (-bw - 0.2 - 0.2 * tail, 0.05 - 0.3 * tail),
            ],
            0.15,
            dark,
        )
    else:
        b.line([(-bw * 0.8, 0.88), (-bw - 0.3, 0.9), (-bw - 0.55, 0.7 - 0.2 * tail)], 0.18, dark)
    b.oval(0, y, bw, bh, c, coat=True)
    if g[5] > 0.5:
        b.oval(0.05, y + 0.12, bw * 0.55, bh * 0.6, mix(s.accent_rgb, WHITE, 0.4), outline=False)
    b.oval(-0.2, 0.95, 0.16, 0.1, dark, corners=14)
    b.oval(0.22, 0.95, 0.16, 0.1, dark, corners=14)
    hr, hy, hx = 0.38 + 0.08 * g[3], y - bh - 0.1, 0.16 * (b.pose[1] - 0.3)
    b.collar(hx, hy + hr * 0.9, 0.26, 0.075)
    ear = 0.28 + 0.18 * g[4]
    for side in (-1, 1):
        b.poly(
            [(hx + side * hr * 0.98, hy - 0.05), (hx + side * hr * 0.88, hy - hr - ear * 0.6), (hx, hy - hr * 0.75)],
            c,
            coat=True,
        )
    b.oval(hx, hy, hr * 1.1, hr * 0.92, c, coat=True)
    for side in (-1, 1):
        x = hx + side * 0.18
        b.oval(x, hy - 0.04, 0.11, 0.12, s.eye_rgb, outline=False, corners=10)
        b.oval(x, hy - 0.04, 0.045, 0.1, DARK, outline=False, corners=10)
    b.poly([(hx - 0.07, hy + 0.1), (hx + 0.07, hy + 0.1), (hx, hy + 0.19)], (230, 120, 140), outline=False)
    b.hat(hx, hy - hr * 0.75, 0.25)


def bird(b: Brush) -> None:
    """Standing bird, side view: wing in the accent color, crest by variant."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    br, bh, tail = 0.42 + 0.14 * g[0], 0.34 + 0.14 * g[1], b.pose[0]
    y = 0.72 - bh
    for x in (-0.08, 0.16):
        b.line([(x, y + bh * 0.8), (x, 1), (x + 0.15, 0.98)], 0.08, (225, 140, 40))
    b.poly(
        [
            (-br * 0.7, y - 0.1),
            (-br - 0.55, y - 0.15 - 0.35 * tail),
            (-br - 0.5, y + 0.15 - 0.2 * tail),
            (-br * 0.7, y + 0.18),
        ],
        shade(c, 0.75),
        coat=True,
    )
    b.oval(0, y, br, bh, c, coat=True, tilt=-0.15)
    if g[5] > 0.5:
        b.oval(0.12, y + 0.14, br * 0.6, bh * 0.6, mix(c, WHITE, 0.6), outline=False)
    hr = 0.26 + 0.07 * g[3]
    hx, hy = br * 0.8, y - bh - 0.06 + 0.1 * (b.pose[1] - 0.5)
    beak = 0.22 + 0.28 * g[4]
    b.poly([(hx + hr * 0.7, hy - 0.12), (hx + hr * 0.7 + beak, hy + 0.04), (hx + hr * 0.7, hy + 0.16)], (240, 170, 40))
    b.oval(hx, hy, hr, hr, c, coat=True)
    b.eye(hx + 0.08, hy - 0.05, 0.1)
    if s.variant == 1 and s.hat is None:
        b.poly([(hx - 0.1, hy - hr * 0.8), (hx - 0.3, hy - hr - 0.3), (hx + 0.15, hy - hr * 0.9)], s.accent_rgb)
    b.oval(-0.1, y - 0.02, br * 0.55, bh * 0.48, s.accent_rgb, tilt=-0.5 - 0.3 * tail)
    b.hat(hx, hy - hr * 0.85, 0.22)


def fish(b: Brush) -> None:
    """Swimming fish, side view: fins in the accent color."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    length, height, tail = 0.62 + 0.14 * g[0], 0.32 + 0.2 * g[1], 0.28 + 0.2 * g[2]
    y, fin, swing = 0.3, s.accent_rgb, 0.2 * (b.pose[0] - 0.5)
    b.poly(
        [
            (-length * 0.8, y),
            (-length - 0.4, y - tail + swing),
            (-length - 0.22, y + swing),
            (-length - 0.4, y + tail + swing),
        ],
        fin,
    )
    b.poly([(-0.32, y - height * 0.8), (-0.2 * g[3], y - height - 0.32), (0.32, y - height * 0.85)], fin)
    b.poly([(-0.1, y + height * 0.8), (-0.25, y + height + 0.24), (0.22, y + height * 0.85)], fin)
    b.oval(0, y, length, height, c, coat=True)
    b.poly([(0.02, y + 0.05), (-0.28, y - 0.08 - 0.15 * g[4]), (-0.28, y + 0.25)], fin)
    b.eye(length * 0.58, y - 0.08, 0.12)
    b.hat(length * 0.42, y - height * 0.78, 0.24)


def robot(b: Brush) -> None:
    """Standing robot, front view: head shape by variant, arm by pose, panel in the accent color."""
    s, g, c = b.subject, b.subject.proportions, b.subject.rgb
    w, h, y, limb = 0.36 + 0.16 * g[0], 0.3 + 0.13 * g[1], 0.35, shade(c, 0.7)
    for side in (-1, 1):
        b.rect(side * w * 0.55 - 0.13, y + h, side * w * 0.55 + 0.13, 1, limb)
        lift = 0.35 - 0.75 * b.pose[0] if side > 0 else 0.35
        b.line([(side * w, y - h * 0.6), (side * (w + 0.32), y - h * 0.6 + lift)], 0.15, limb)
        b.oval(side * (w + 0.32), y - h * 0.6 + lift, 0.12, 0.12, s.accent_rgb, corners=14)
    b.rect(-w, y - h, w, y + h, c, coat=True)
    if g[2] > 0.4:
        b.rect(-w * 0.5, y - 0.14, w * 0.5, y + 0.14, s.accent_rgb)
    hw, hh = 0.28 + 0.13 * g[3], 0.23 + 0.07 * g[4]
    hx, hy = 0.1 * (b.pose[1] - 0.5), y - h - hh - 0.05
    if s.hat is None:
        b.line([(hx, hy - hh), (hx, hy - hh - 0.22)], 0.06, (90, 90, 95))
        b.oval(hx, hy - hh - 0.24, 0.1, 0.1, s.accent_rgb, corners=10)
    if s.variant == 0:
        b.rect(hx - hw, hy - hh, hx + hw, hy + hh, c, coat=True)
    else:
        b.oval(hx, hy, hw * 1.1, hh * 1.1, c, coat=True)
    for side in (-1, 1):
        b.oval(hx + side * hw * 0.45, hy - 0.03, 0.11, 0.11, s.eye_rgb, corners=10)
    b.line([(hx - hw * 0.4, hy + hh * 0.6), (hx + hw * 0.4, hy + hh * 0.6)], 0.06, (40, 40, 45))
    b.hat(hx, hy - hh, 0.25)
