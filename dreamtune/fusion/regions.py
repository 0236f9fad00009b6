"""One UNet pass in which each adapter acts in its own region of the picture, and each region has its own prompt.

Layers on pixels: y = W0 x + Σ Mᵢ ⊙ ΔWᵢ x, with the region's mask Mᵢ brought to the layer's size. Keys and values of
cross-attention: every prompt's through W0 + ΔWᵢ, or W0 alone for the context prompt, and attended by its own pixels
only: the outputs are mixed by the masks, which is soft where masks are soft. Where regions overlap they share the
pixels evenly; where there is none the context prompt and the plain base act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Region:
    """Where one adapter acts, and what is to be there."""

    mask: Tensor
    """(h, w) of the whole picture, 0 to 1."""
    embedding: Tensor
    """(tokens, dim) of its prompt."""
    deltas: Mapping[str, tuple[Tensor, Tensor]]
    """Layer path in the UNet -> factors (out, k), (k, in) of strength·ΔW."""


def box_mask(box: Sequence[float], size: tuple[int, int], softness: float = 0.0) -> Tensor:
    """(h, w) mask of a box x0, y0, x1, y1 in shares of the picture; its edges fall off over the share `softness`.

    Raises ConfigError for a box outside the picture or without area.
    """
    x0, y0, x1, y1 = box
    if not all(0 <= value <= 1 for value in box):
        raise ConfigError(f"the region {x0},{y0},{x1},{y1} reaches outside the picture: use numbers from 0 to 1")
    if x0 >= x1 or y0 >= y1:
        raise ConfigError(f"the region {x0},{y0},{x1},{y1} has no area: give left, top, right and bottom")
    sides = []
    for (start, stop), length in zip(((y0, y1), (x0, x1)), size, strict=True):
        at = (torch.arange(length) + 0.5) / length
        # an edge that is the picture's own is no edge
        rise = _edge(at - start, softness) if start > 0 else torch.ones(length)
        fall = _edge(stop - at, softness) if stop < 1 else torch.ones(length)
        sides.append(torch.minimum(rise, fall))
    return sides[0][:, None] * sides[1][None, :]


def shares(masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(n, h, w) what each region has of every pixel, and (h, w) what is left to the context; together 1."""
    stacked = torch.stack(list(masks)).float()
    total = stacked.sum(0)
    return stacked / total.clamp(min=1), (1 - total).clamp(min=0)


@contextmanager
def routed(unet: nn.Module, regions: Sequence[Region], *, guided: bool) -> Iterator[None]:
    """Within the block, `unet`, of the design of diffusers' UNet2DConditionModel, draws by regions.

    guided: the first half of every batch is what guidance leads away from: there the adapters act in their regions as
    well, but on the prompt of the call. Raises ConfigError for an adapter that changes layers without pixels or
    prompts, which no region can have for itself.
    """
    masks, rest = shares([region.mask for region in regions])
    with ExitStack() as stack:
        state = _State(masks, rest)
        stack.callback(unet.register_forward_pre_hook(state.begin, with_kwargs=True).remove)
        attended = {name for name, it in unet.named_modules() if name.endswith("attn2")}
        for name in {name for region in regions for name in region.deltas}:
            if ".transformer_blocks." not in name:
                raise ConfigError(f"the layer {name} acts on the whole picture: its adapter cannot have a region")
            layer = unet.get_submodule(name)
            if name.rpartition(".")[0] in attended and name.endswith(("to_k", "to_v")):
                continue
            stack.callback(layer.register_forward_hook(_masked(state, [r.deltas.get(name) for r in regions])).remove)
        for name in attended:
            attention: Any = unet.get_submodule(name)
            before = attention.processor
            attention.processor = _Routed(state, name, regions, guided)
            stack.callback(setattr, attention, "processor", before)
        yield


class _State:
    """What the layers need to know of the pass that is going on."""

    def __init__(self, masks: Tensor, rest: Tensor) -> None:
        self.masks, self.rest = masks, rest
        self.height = self.width = 0
        self._sized: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the size of the latents (n, c, h, w)."""
        sample = args[0] if args else kwargs["sample"]
        if (self.height, self.width) != tuple(sample.shape[-2:]):
            self.height, self.width = sample.shape[-2:]
            self._sized.clear()

    def at(self, tokens: int, like: Tensor) -> Tensor:
        """(n + 1, tokens, 1): the regions' shares of a layer's pixels, and last the context's."""
        key = (tokens, like.device, like.dtype)
        if key not in self._sized:
            height, width = self.height, self.width
            while height * width > tokens:  # as the UNet halves them, sizes that are odd too
                height, width = -(-height // 2), -(-width // 2)
            every = torch.cat([self.masks, self.rest[None]])
            sized = F.interpolate(every[:, None], (height, width), mode="area").flatten(
                1
            )  # averages: their sum stays 1
            self._sized[key] = sized[:, :, None].to(like.device, like.dtype)
        return self._sized[key]


def _edge(distance: Tensor, softness: float) -> Tensor:
    """0 outside, 1 inside, a straight line between that is `softness` wide."""
    return (distance >= 0).float() if softness == 0 else (distance / softness + 0.5).clamp(0, 1)


def _masked(state: _State, factors: Sequence[tuple[Tensor, Tensor] | None]) -> Any:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]  # (n, tokens, in)
        masks = state.at(x.shape[1], x)
        for mask, pair in zip(masks, factors, strict=False):
            if pair is not None:
                output = output + mask * _changed(x, pair)
        return output

    return hook


def _changed(x: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
    up, down = (it.to(x.device, x.dtype) for it in factors)
    return F.linear(F.linear(x, down), up)


class _Routed:
    """Cross-attention by regions, for diffusers' Attention."""

    def __init__(self, state: _State, name: str, regions: Sequence[Region], guided: bool) -> None:
        self.state, self.regions, self.guided = state, regions, guided
        self.changes = [(r.deltas.get(f"{name}.to_k"), r.deltas.get(f"{name}.to_v")) for r in regions]

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """(n, pixels, dim) attends to the prompts: the call's in the whole batch, then the regions'."""
        query = _heads(attn, attn.to_q(hidden_states))
        context = encoder_hidden_states
        shares = self.state.at(hidden_states.shape[1], hidden_states)  # (regions + 1, pixels, 1)
        plain = F.scaled_dot_product_attention(query, *_keys(attn, context, (None, None)))
        mixed = _flat(plain) * shares[-1]
        unwanted = context[: len(context) // 2] if self.guided else context[:0]
        for share, region, changes in zip(shares, self.regions, self.changes, strict=False):
            wanted = region.embedding.to(context).expand(len(context) - len(unwanted), -1, -1)
            own = torch.cat([unwanted, wanted])
            mixed = mixed + share * _flat(F.scaled_dot_product_attention(query, *_keys(attn, own, changes)))
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor


def _keys(
    attn: Any, context: Tensor, changes: tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None]
) -> tuple[Tensor, Tensor]:
    found = []
    for layer, change in zip((attn.to_k, attn.to_v), changes, strict=True):
        projected = layer(context)
        found.append(_heads(attn, projected if change is None else projected + _changed(context, change)))
    return found[0], found[1]


def _heads(attn: Any, x: Tensor) -> Tensor:
    """(n, tokens, dim) -> (n, heads, tokens, dim / heads)."""
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
