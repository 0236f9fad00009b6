"""Reading a UNet's attention beside a pass, which stays bitwise what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""Height and width in cells."""


@contextmanager
def attention_averages(
    unet: nn.Module, kind: Literal["attn1", "attn2"], values: Callable[[Size], Tensor]
) -> Iterator[list[Tensor]]:
    """Within the block every pass of `unet` adds, for each layer of attention, what its pixels attend to of `values`.

    A layer adds Σⱼ softmax(q kᵀ/√d)ᵢⱼ vⱼ as (n, m, h, w) fp32, the mean over its heads: values of 1 at some words give
    the probability that these are attended to, as in DAAM (Tang et al., arXiv 2210.04885), and maps of the picture are
    averaged over what looks alike. No matrix of pixels by pixels is kept.

    kind: attn2 are the layers that attend to words, attn1 those that attend to pixels. values: the layer's size ->
    (keys, m), keys being the words or the layer's h·w pixels, and m at most the width of a head. `unet` is of the
    design of diffusers' UNet2DConditionModel.
    """
    found: list[Tensor] = []
    whole: list[Size] = [(1, 1)]

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        whole[0] = (sample.shape[-2], sample.shape[-1])

    def read(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]  # (n, pixels, dim)
        context = kwargs.get("encoder_hidden_states")
        keys = states if context is None else context
        size = _size_of(states.shape[1], whole[0])
        query, key = (
            layer(x).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for layer, x in ((attention.to_q, states), (attention.to_k, keys))
        )
        value = values(size).to(query)
        # filled up to the width of the keys, since not every fast kernel takes another
        full = F.pad(value, (0, key.shape[-1] - value.shape[1])).expand(len(states), attention.heads, -1, -1)
        mean = F.scaled_dot_product_attention(query, key, full, scale=attention.scale)[..., : value.shape[1]]
        found.append(mean.float().mean(1).transpose(1, 2).unflatten(2, size))

    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for name, module in unet.named_modules():
            if name.endswith(f".{kind}"):
                stack.callback(module.register_forward_pre_hook(read, with_kwargs=True).remove)
        yield found


def _size_of(pixels: int, whole: Size) -> Size:
    """Height and width of a layer of that many pixels: those of the latents, halved as often as it takes."""
    height, width = whole
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    assert height * width == pixels, (pixels, whole)
    return height, width
