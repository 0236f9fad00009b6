"""One UNet pass in which each adapter acts in its own region of the picture, and each region has its own prompt.

Layers on pixels: y = W0 x + Σ Mᵢ ⊙ ΔWᵢ x, with the region's mask Mᵢ brought to the layer's size; of convolutions the
size that they give. A resnet adds its layer on the timestep to every pixel: there it is each region's own. Keys and
values of cross-attention: every prompt's through W0 + ΔWᵢ, or W0 alone for the context prompt, and attended by its own
pixels only: the outputs are mixed by the masks, which is soft where masks are soft. Where regions overlap they share
the pixels evenly; where there is none the context prompt and the plain base act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.adapters.delta import Delta
from dreamtune.errors import ConfigError

from .masked import Masked, masked_kind
from .places import Places


@dataclass(frozen=True, eq=False)
class Region:
    """Where adapters act, and what is to be there."""

    mask: Tensor
    """(h, w) of the whole picture, 0 to 1."""
    embedding: Tensor
    """(tokens, dim) of its prompt."""
    deltas: Mapping[str, Delta]
    """Layer path in the UNet -> ΔW there, of all its adapters, at their strengths."""
    pooled: Tensor | None = None
    """(dim,) SDXL's pooled prompt, which acts on the whole picture: for passes of its own (see blended) alone."""


@contextmanager
def routed(unet: nn.Module, regions: Sequence[Region], *, guided: bool) -> Iterator[Routing]:
    """Within the block, `unet`, of the design of diffusers' UNet2DConditionModel, draws by regions.

    guided: the first half of every batch is what guidance leads away from: there the adapters act in their regions as
    well, but on the prompt of the call. Raises ConfigError for an adapter that changes layers without pixels or
    prompts, which no region can have for itself.
    """
    routing = Routing(unet, regions, guided=guided)

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        routing.begin(args[0] if args else kwargs["sample"])

    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.enter_context(routing.installed())
        yield routing


class Routing:
    """The regions of a UNet, and what its layers need to know of them."""

    def __init__(self, unet: nn.Module, regions: Sequence[Region], *, guided: bool) -> None:
        """See :func:`routed`; nothing acts before :meth:`installed`."""
        self.places = Places([region.mask for region in regions])
        self._attentions = {
            name: _Attention(name, self.places, [region.embedding for region in regions], guided)
            for name, _ in unet.named_modules()
            if name.endswith("attn2")
        }
        self._layers: dict[str, Masked] = {}
        for name in {name for region in regions for name in region.deltas}:
            kind = masked_kind(unet, name)
            if kind is None:
                raise ConfigError(f"the layer {name} acts on the whole image: its adapter cannot have a region")
            if name.rpartition(".")[0] not in self._attentions or not name.endswith(("to_k", "to_v")):
                self._layers[name] = kind(self.places)
        self._unet = unet
        self.change([region.deltas for region in regions])

    def change(self, deltas: Sequence[Mapping[str, Delta]]) -> None:
        """From now on the adapters of each region change the layers by these, which need not name all of them."""
        for name, layer in self._layers.items():
            layer.change([own.get(name) for own in deltas])
        for name, attention in self._attentions.items():
            attention.changes = [(own.get(f"{name}.to_k"), own.get(f"{name}.to_v")) for own in deltas]
        self.forget()

    def forget(self) -> None:
        """Compute keys and values anew: to be called when other adapters have changed the weights of the UNet."""
        for attention in self._attentions.values():
            attention.context = None

    def begin(self, sample: Tensor) -> None:
        """Take the size of the latents (n, c, h, w) that come next."""
        self.places.resize(sample.shape[-2], sample.shape[-1])

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block the UNet's layers act by regions; :meth:`begin` has to come before each pass."""
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                for handle in layer.install(self._unet, name):
                    stack.callback(handle.remove)
            for name, attention in self._attentions.items():
                module: Any = self._unet.get_submodule(name)
                stack.callback(setattr, module, "processor", module.processor)
                module.processor = attention
            yield


class _Attention:
    """Processor of cross-attention for diffusers' Attention: every prompt is attended by its own pixels."""

    def __init__(self, name: str, places: Places, embeddings: Sequence[Tensor], guided: bool) -> None:
        self.name, self.places, self.embeddings, self.guided = name, places, embeddings, guided
        self.changes: Sequence[tuple[Delta | None, Delta | None]] = []
        self.context: Tensor | None = None
        """The prompts whose keys and values are kept. Held, so that no other tensor can be taken for it."""
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """(n, pixels, dim) attends to the prompts: the call's in the whole batch, then the regions'."""
        if self.context is not encoder_hidden_states:  # a sampler gives the same tensor at every step
            self._kept = self._keys(attn, encoder_hidden_states)
            self.context = encoder_hidden_states
        query = attn.to_q(hidden_states)
        pixels, counts, share = self.places.all(query)
        parts = [
            _flat(F.scaled_dot_product_attention(_heads(attn, own), *keys))
            for own, keys in zip(query.index_select(1, pixels).split(counts, 1), self._kept, strict=True)
            if own.shape[1]
        ]
        mixed = torch.zeros_like(query).index_add_(1, pixels, torch.cat(parts, 1).mul_(share))
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor

    def _keys(self, attn: Any, context: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (n, heads, tokens, dim / heads) of each region, and last the context's."""
        unwanted = context[: len(context) // 2] if self.guided else context[:0]
        found = []
        for embedding, changes in zip(self.embeddings, self.changes, strict=True):
            wanted = embedding.to(context).expand(len(context) - len(unwanted), -1, -1)
            found.append(_projected(attn, torch.cat([unwanted, wanted]), changes))
        return [*found, _projected(attn, context, (None, None))]


def _projected(attn: Any, context: Tensor, changes: tuple[Delta | None, Delta | None]) -> tuple[Tensor, Tensor]:
    key, value = (
        _heads(attn, layer(context) if change is None else layer(context) + _changed(context, change))
        for layer, change in zip((attn.to_k, attn.to_v), changes, strict=True)
    )
    return key, value


def _changed(x: Tensor, delta: Delta) -> Tensor:
    """ΔW x."""
    if delta.whole is not None:
        return F.linear(x, delta.whole.to(x))
    return F.linear(F.linear(x, delta.down.to(x)), delta.up.to(x))


def _heads(attn: Any, x: Tensor) -> Tensor:
    """(n, tokens, dim) -> (n, heads, tokens, dim / heads)."""
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
