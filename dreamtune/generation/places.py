"""Regions' masks at the sizes that a UNet's layers have."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import shares

_T = TypeVar("_T")


class Places:
    """Which pixels belong to which region, and to how much, in layers of any size; computed once for each."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        """masks: of the whole picture, (h, w) each, all of one size."""
        own, rest = shares(masks)
        self._every = torch.cat([own, rest[None]])[:, None]  # (regions + 1, 1, h, w)
        self._size = (0, 0)
        self._known: dict[Hashable, object] = {}

    def resize(self, height: int, width: int) -> None:
        """Set the size of the latents."""
        if self._size != (height, width):
            self._size = (height, width)
            self._known.clear()

    def at(self, height: int, width: int) -> Tensor:
        """(regions + 1, height, width): what each region has of the pixels, and last the context; their sum is 1."""
        return F.interpolate(self._every, (height, width), mode="area")[:, 0]

    def columns(self, ranks: tuple[int, ...], like: Tensor) -> Tensor:
        """(pixels, sum of ranks): the share of region i in `ranks[i]` columns; for `like` (n, pixels, ...)."""

        def make() -> Tensor:
            owners = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
            return self._shares(like.shape[1])[owners].T.to(like).contiguous()

        return self._once(("columns", ranks), like, make)

    def maps(self, ranks: tuple[int, ...], like: Tensor) -> Tensor:
        """(sum of ranks, h, w): the share of region i in `ranks[i]` channels; for `like` (n, c, h, w)."""

        def make() -> Tensor:
            owners = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
            return self.at(like.shape[2], like.shape[3])[owners].to(like)

        return self._once(("maps", ranks, like.shape[2:]), like, make)

    def map(self, region: int, like: Tensor) -> Tensor:
        """(h, w): the share of a region; for `like` (n, c, h, w)."""
        height, width = like.shape[2:]
        return self._once(("map", region, like.shape[2:]), like, lambda: self.at(height, width)[region].to(like))

    def own(self, region: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(p,) the pixels of a region, and (p, 1) its shares of them; for `like` (n, pixels, ...)."""

        def make() -> tuple[Tensor, Tensor]:
            share = self._shares(like.shape[1])[region]
            pixels = share.nonzero()[:, 0]
            return pixels.to(like.device), share[pixels, None].to(like)

        return self._once(("own", region), like, make)

    def all(self, like: Tensor) -> tuple[Tensor, list[int], Tensor]:
        """The pixels of all regions and of the context, one after the other, how many each has, and the shares."""

        def make() -> tuple[Tensor, list[int], Tensor]:
            parts = [self.own(region, like) for region in range(len(self._every))]
            pixels, share = (torch.cat([part[i] for part in parts]) for i in range(2))
            return pixels, [len(part[0]) for part in parts], share

        return self._once(("all",), like, make)

    def _shares(self, pixels: int) -> Tensor:
        """(regions + 1, pixels) for a layer of that many pixels."""
        height, width = self._size
        while height * width > pixels:  # as the UNet halves them, sizes that are odd too
            height, width = -(-height // 2), -(-width // 2)
        return self.at(height, width).flatten(1)

    def _once(self, what: tuple[Hashable, ...], like: Tensor, make: Callable[[], _T]) -> _T:
        key = (*what, like.shape[1], like.device, like.dtype)
        if key not in self._known:
            self._known[key] = make()
        return cast(_T, self._known[key])
