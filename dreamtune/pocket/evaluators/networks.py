"""The networks: Finder looks at whole pictures, Reader at crops of one subject, ImageText joins pictures and texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..world import CLASSES, COLORS, CONTEXTS, PATTERNS

PICTURE = 48
"""Side in pixels of the pictures that Finder sees; others are resized."""
CROP = 40
"""Side in pixels of the crops that Reader sees."""
GRID = 12
"""Cells along a side of Finder's map."""
HEADS = {
    "cls": len(CLASSES),
    "color": len(COLORS),
    "pattern": len(PATTERNS),
    "pattern_color": len(COLORS) + 1,
    "hat": len(COLORS) + 1,
}
"""Questions that Reader answers and the number of answers; the last of `pattern_color` and `hat` is "none"."""
IDENTITY_WIDTH = 96


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.norm2(self.first(F.silu(self.norm1(x))))))


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), _Block(outputs))


class Finder(nn.Module):
    """Where subjects stand, and in which context: one-stage detection without anchors (FCOS, arXiv 1904.01355)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.fine = nn.Sequential(_Block(32), _down(32, 64))
        self.coarse = nn.Sequential(_down(64, 128), _Block(128))
        self.join = nn.Conv2d(64 + 128, 96, 1)
        self.head_place = nn.Conv2d(96, 5, 1)
        self.head_context = nn.Linear(64 + 128, len(CONTEXTS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (n, 3, 48, 48) in -1..1 -> presence logits (n, 12, 12), boxes (n, 12, 12, 4), contexts (n, 10).

        Boxes are x0, y0, x1, y1 as fractions of the side.
        """
        fine = self.fine(self.conv_in(pictures))
        coarse = self.coarse(fine)
        joint = F.silu(self.join(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1)))
        place = self.head_place(joint).float()
        reach = F.softplus(place[:, 1:]).permute(0, 2, 3, 1)  # left, top, right, bottom of the cell's center
        at = (torch.arange(GRID, device=place.device) + 0.5) / GRID
        x, y = at.view(1, 1, GRID).expand(1, GRID, GRID), at.view(1, GRID, 1).expand(1, GRID, GRID)
        boxes = torch.stack([x - reach[..., 0], y - reach[..., 1], x + reach[..., 2], y + reach[..., 3]], -1)
        pooled = torch.cat([F.silu(fine).mean((2, 3)), F.silu(coarse).mean((2, 3))], 1)
        return place[:, 0], boxes, self.head_context(pooled)


class Reader(nn.Module):
    """Attributes and identity of the subject in a crop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 48, 5, stride=2, padding=2)
        self.body = nn.Sequential(_Block(48), _down(48, 96), _Block(96), _down(96, 192), _Block(192))
        self.norm = nn.GroupNorm(8, 192)
        self.mix = nn.Linear(192 * 25, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, n) for name, n in HEADS.items()})
        self.head_identity = nn.Linear(256, IDENTITY_WIDTH)

    def hidden(self, crops: Tensor) -> Tensor:
        """Crops (n, 3, 40, 40) in -1..1 -> what all answers come from, (n, 256)."""
        features = F.silu(self.norm(self.body(self.conv_in(crops))))  # (n, 192, 5, 5)
        return F.silu(self.mix(features.flatten(1)))

    def answers(self, hidden: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Of :meth:`hidden`: logits (n, answers) by question, identity embeddings (n, 96), unit rows."""
        logits = {name: head(hidden).float() for name, head in self.heads.items()}
        return logits, F.normalize(self.head_identity(hidden).float(), dim=-1)

    def forward(self, crops: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Crops (n, 3, 40, 40) in -1..1 -> logits (n, answers) by question, identity embeddings (n, 96), unit rows."""
        return self.answers(self.hidden(crops))


class ImageText(nn.Module):
    """A common space for pictures, described by Finder's and Reader's answers, and texts, by the text encoder."""

    WIDTH = 128

    def __init__(self, text_width: int) -> None:
        super().__init__()
        picture_width = len(CONTEXTS) + 2 * (5 + sum(HEADS.values()))
        self.picture = self._tower(picture_width)
        self.text = self._tower(text_width)
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def _tower(self, width: int) -> nn.Module:
        hidden = 384
        layers = [nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(hidden, self.WIDTH))

    def pictures(self, answers: Tensor) -> Tensor:
        """(n, picture width) answers -> (n, 128) unit rows."""
        return F.normalize(self.picture(answers), dim=-1)

    def texts(self, states: Tensor) -> Tensor:
        """(n, text width) states of the text's end -> (n, 128) unit rows."""
        return F.normalize(self.text(states), dim=-1)
