"""Images and prompts as training sees them: latents and embeddings, computed once and then read from the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.errors import BaseModelError, DatasetError
from dreamtune.models import Base
from dreamtune.models.conditioning import Conditioning
from dreamtune.models.device import arithmetic

from .cache import Cache, key_of, weights_digest
from .images import Picture, UnusablePicture, open_picture, quiet, to_tensor
from .subject import Subject
from .survey import Photo


@dataclass(frozen=True)
class Example:
    """A picture and the numbers of its prompts; CPU tensors, fp32."""

    latent: Tensor
    """(c, h, w), scaled; h and w are those of its bucket."""
    prompts: tuple[int, ...]
    """Rows in the list of prompts that belongs to the examples; it has one of them each time it is seen."""
    mask: Tensor | None = None
    """(h, w) weight of each latent cell in the loss, 0 to 1; None weighs all alike."""
    time_ids: Tensor | None = None
    """(6,) SDXL's micro-conditioning: original height and width, top and left of the crop, target height and width."""


_RULES = 2
"""Part of the latents' keys: a change of how pixels are made makes the old ones unreachable."""


def subject_examples(
    base: Base,
    subject: Subject,
    flip: bool = False,
    cache: Cache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Example, ...]:
    """The subject's pictures for training, with `flip` the mirrored ones after the others.

    Each one's `prompts` are rows of `subject.prompts`. Latents are the mode of the VAE's posterior, scaled. They come
    from the cache where they are there; an entry depends on the file's bytes, the crop and size, the mirroring,
    the VAE's weights and type, and the arithmetic of the device. `on_progress(done, of)` is told after each.

    Raises DatasetError when a file is no longer what it was when the subject was loaded, and BaseModelError when the
    VAE makes NaN of a picture.
    """
    cache = cache or Cache("latents")
    vae = weights_digest(base.vae)
    prompts = {prompt: row for row, prompt in enumerate(subject.prompts)}
    photos = list(zip(subject.photos, subject.captions, strict=True))
    work = [
        (photo, captions, mirrored) for mirrored in ((False, True) if flip else (False,)) for photo, captions in photos
    ]
    examples = []
    for photo, captions, mirrored in work:
        crop = {"box": photo.crop.box, "size": photo.crop.size}
        made = {"mirrored": mirrored, "rules": _RULES, "arithmetic": arithmetic(base.device)}
        key = key_of({"picture": photo.digest, **crop, "vae": vae, **made})
        entry = cache.get(key)
        if entry is None:
            cache.put(key, entry := {"latent": _latent(base, photo, mirrored)})
        mask = None if photo.mask is None else torch.from_numpy(photo.mask.copy())
        if mask is not None and mirrored:
            mask = mask.flip(-1)
        rows = tuple(prompts[caption] for caption in captions)
        examples.append(Example(entry["latent"], rows, mask, photo.crop.time_ids(mirrored)))
        if on_progress:
            on_progress(len(examples), len(work))
    cache.make_room()
    return tuple(examples)


def read_pixels(photo: Photo) -> Tensor:
    """(3, h, w) fp32 in [-1, 1]: the picture as training sees it. Raises DatasetError if the file has changed."""
    return to_tensor(photo.crop.apply(open_again(photo, 2 * max(photo.crop.size)).image))


def open_again(photo: Photo, side: int | None = None) -> Picture:
    """The picture of a photo, see open_picture. Raises DatasetError if the file is no longer what it was."""
    try:
        with quiet():
            picture = open_picture(photo.path, side)
    except UnusablePicture as error:
        raise DatasetError(f"{photo.path}: {error.problem}; it was readable earlier: {error.remedy}") from None
    if picture.digest != photo.digest:
        raise DatasetError(f"{photo.path} has changed since the images were checked: start again")
    return picture


def prompt_conditionings(base: Base, prompts: Sequence[str], cache: Cache | None = None) -> list[Conditioning]:
    """What the UNet is told of each prompt, fp32 on the CPU; equal prompts are encoded once.

    An empty one is what guidance leads away from.

    It is that of the base alone: no adapter on a text encoder and no new word may act on it meanwhile.
    """
    cache = cache or Cache("prompts")
    encoders = {name: weights_digest(part) for name, part in base.parts.items() if name != "unet"}
    found: dict[str, Conditioning] = {}
    for prompt in dict.fromkeys(prompts):
        about = {"design": type(base).__name__, "encoders": encoders, "arithmetic": arithmetic(base.device)}
        key = key_of({"tokens": base.tokens(prompt), **about})
        entry = cache.get(key)
        if entry is None:
            made = base.condition([prompt])[0]
            entry = {"embedding": made.embedding.float().cpu()}
            if made.pooled is not None:
                entry["pooled"] = made.pooled.float().cpu()
            cache.put(key, entry)
        found[prompt] = Conditioning(entry["embedding"], entry.get("pooled"))
    cache.make_room()
    return [found[prompt] if prompt else base.emptied(found[prompt]) for prompt in prompts]


def _latent(base: Base, photo: Photo, mirrored: bool) -> Tensor:
    pixels = read_pixels(photo)
    return encoded(base, pixels.flip(-1) if mirrored else pixels, photo.file)


def encoded(base: Base, pixels: Tensor, name: str) -> Tensor:
    """Latent (c, h, w) fp32 on the CPU of pixels (3, H, W). Raises BaseModelError, with `name`, for NaN."""
    latent = base.encode_images(pixels[None])[0].float().cpu()
    if not latent.isfinite().all():  # kept, it would spoil every later run
        raise BaseModelError(f"the base {base.id} encodes {name} to NaN: its VAE is damaged or overflows")
    return latent
