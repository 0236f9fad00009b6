"""Where a base sees a thing of a class in a picture: a map of its latent cells, from its own attention and noise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamtune.errors import BaseModelError, ConfigError
from dreamtune.models import Base
from dreamtune.models.attention import Size, attention_averages
from dreamtune.models.families import USUAL
from dreamtune.models.noised import noised, predicted
from dreamtune.models.prompts import MARKS, Tokens
from dreamtune.words import one_form, places

NOISES = (0.3, 0.5, 0.7)
"""Timesteps, as shares of all, at which the base is asked: with less noise words change little, with more it sees
little."""
SPREADING = 0.2
"""Timestep at which its attention says which places look alike: late enough that the picture is nearly whole."""
SEEDS = 4
"""Noises per timestep: single ones make the maps uneven."""
COLORS = ("red", "blue")
"""What a subject is called in turn where another color of it tells where it is."""
LEAST_CELLS = 6
"""Shorter side of the smallest layer that is read, if there is one: on pocket, those of 3 cells tell nothing."""


def class_tokens(base: Base, prompt: str, class_word: str) -> list[int]:
    """The places of the class word's tokens in what the text encoder is given for `prompt`, its beginning counted.

    Raises ConfigError if the encoder does not read the whole word.
    """
    prompt, word = one_form(prompt), one_form(class_word)
    found = places(prompt, [word])
    if not found:
        raise ConfigError(f"the class {class_word!r} is not a word: name what the subject is, e.g. dog or teapot")
    start, end = found[-1]
    ends = Tokens.of(base.tokenizer, prompt, {}).ends
    numbers = [place for place, until in enumerate(ends, 1) if start < until <= end]
    if not numbers or max(numbers) > base.tokenizer.model_max_length - MARKS:
        raise ConfigError(f"the class {class_word!r} is too long for the base: name it in a word or two")
    return numbers


@torch.no_grad()
def subject_map(base: Base, pixels: Tensor, class_word: str, seed: int = 0, seeds: int = SEEDS) -> Tensor:
    """(h, w) fp32 on the CPU, 0 to 1: how far each latent cell of a picture (3, H, W) in [-1, 1] is of the class.

    Two maps at a few amounts of noise, both with a prompt for any thing of the class: the attention to the class word's
    tokens (DAAM, arXiv 2210.04885), and how much the prediction differs from that without words (DiffEdit, Couairon et
    al., arXiv 2210.11427). Each is averaged by self-attention over what looks alike, and brought to 0 to 1; the map is
    their product, so that both have to agree.

    Noise is that of CPU generators seeded with `seed` and the numbers after it, `seeds` for each amount. Raises
    ConfigError for a class that is no word or too long for the base, BaseModelError when it makes NaN.
    """
    prompt = USUAL[base.family].prompt("", class_word)
    tokens = class_tokens(base, prompt, class_word)
    wanted, empty = base.condition([prompt, ""])
    empty = base.emptied(empty)
    latent = base.encode_images(pixels[None])[0].float()
    size: Size = (latent.shape[-2], latent.shape[-1])
    latents = latent.expand(seeds, -1, -1, -1)
    marks = torch.zeros(len(wanted.embedding), 1)
    marks[tokens] = 1
    differences, attentions = [], []
    for cells, timestep in noised(base, latents, NOISES, seed):
        with attention_averages(base.unet, "attn2", lambda _: marks) as read:
            told, untold = predicted(base, cells, timestep, [wanted, empty]).chunk(2)
        differences.append((told - untold).abs().mean(1).mean(0))
        least = min(LEAST_CELLS, max(min(it.shape[2:]) for it in read))
        maps = [it[: len(cells)] for it in read if min(it.shape[2:]) >= least]
        attentions += [_standardized(_resized(it, size).mean(0)[0]) for it in maps]
    maps = torch.stack([_stretched(torch.stack(it).mean(0)) for it in (differences, attentions)])
    spread = []
    for cells, timestep in noised(base, latents, (SPREADING,), seed):
        with attention_averages(base.unet, "attn1", lambda to: _resized(maps[None], to)[0].flatten(1).T) as read:
            predicted(base, cells, timestep, [wanted])
        finest = max(it[0, 0].numel() for it in read)
        spread += [_resized(it, size).mean(0) for it in read if it[0, 0].numel() == finest]
    difference, attention = (_stretched(it) for it in torch.stack(spread).mean(0))
    found = _stretched(difference * attention).cpu()
    return _checked(base, found)


@torch.no_grad()
def color_map(base: Base, pixels: Tensor, class_word: str, seed: int = 0, seeds: int = SEEDS) -> Tensor:
    """(h, w) fp32 on the CPU, 0 to 1: how far another color of a thing of the class would change each latent cell.

    The mask of DiffEdit from a contrast that leaves the scene alone, see fusion.locate, at the noises of
    :func:`subject_map`, for a picture (3, H, W) in [-1, 1]. Raises BaseModelError when the base makes NaN.
    """
    usual = USUAL[base.family]
    told = base.condition([usual.prompt("", it) for it in (class_word, *(f"{it} {class_word}" for it in COLORS))])
    latents = base.encode_images(pixels[None]).float().expand(seeds, -1, -1, -1)
    maps = []
    for cells, timestep in noised(base, latents, NOISES, seed):
        plain, *others = predicted(base, cells, timestep, told).chunk(len(told))
        changed = torch.stack([(it - plain).square().mean(1) for it in others]).sum(0).mean(0).sqrt()
        maps.append(changed / changed.mean().clamp(min=1e-12))
    found = _stretched(torch.stack(maps).mean(0)).cpu()
    return _checked(base, found)


@torch.no_grad()
def change_map(
    base: Base, pixels: Tensor, prompts: tuple[str, str], on: Callable[[], AbstractContextManager[object]], seeds: int
) -> Tensor:
    """(h, w) fp32 on the CPU, 0 to 1: how far adapters change what the base predicts at each latent cell of a picture.

    prompts: with their word, read while they are on, and without, read while they are not. on: puts them on the base.
    A hat, which the class word does not mean, is in it. Otherwise as :func:`color_map`.
    """
    latents = base.encode_images(pixels[None]).float().expand(seeds, -1, -1, -1)
    steps = list(noised(base, latents, NOISES, seed=0))
    plain = [predicted(base, cells, timestep, base.condition(prompts[1:])) for cells, timestep in steps]
    with on():
        told = base.condition(prompts[:1])
        taught = [predicted(base, cells, timestep, told) for cells, timestep in steps]
    maps = [(a - b).square().mean(1).mean(0).sqrt() for a, b in zip(taught, plain, strict=True)]
    found = _stretched(torch.stack([it / it.mean().clamp(min=1e-12) for it in maps]).mean(0)).cpu()
    return _checked(base, found)


def _checked(base: Base, found: Tensor) -> Tensor:
    if not found.isfinite().all():
        raise BaseModelError(f"the base {base.id} predicts NaN for an image: its weights are damaged or overflow")
    return found


def _resized(maps: Tensor, size: Size) -> Tensor:
    """(n, m, h, w) at another size, smooth."""
    return F.interpolate(maps, size, mode="bicubic", antialias=True)


def _standardized(found: Tensor) -> Tensor:
    """Mean 0 and deviation 1, so that layers of all levels count alike."""
    return (found - found.mean()) / found.std().clamp(min=1e-6)


def _stretched(found: Tensor) -> Tensor:
    """From 0 to 1; 0 where a map is the same all over."""
    return (found - found.min()) / (found.max() - found.min()).clamp(min=1e-6)
