"""Stage 2b, the words: teach the text encoder that a nonsense word stays itself wherever it stands.

Stage 2 makes the encoder tell which of eight words belongs to the first subject and which to the second, by separate
heads; "sks as first" and "sks as second" then become two unrelated states, and an adapter that learned the one is not
heard beside the other. Here each word, of any letters, gets a fixed code, and the encoder of stage 2 is trained on:
state at the word = that of a colour at the beginning of a caption, wherever the word stands, plus the code; state at
its class word = that in the caption without the word, plus the code. All other states are held where they are, so that
a UNet which has learned to read captions reads them as before.

The word's own state says nothing of its place: where it also said whether its subject is the first or the second, an
adapter was heard less as the second (docs/log.md).
"""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import string
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..world import CLASSES, COLORS, random_scene
from ..world.captions import IDENTIFIERS, caption
from .config import PretrainConfig
from .schedule import Ema, Stage, constant_then_cosine

SIZE = 0.8
"""Length of a word's code, as a share of the state it is added to."""
READ = 0.3
"""Added to the (normalised) second moment of the UNet's keys and values before it shapes the codes: the smaller, the
less the UNet reads of a code before an adapter teaches it."""
KNOWN = 0.3
"""Share of words that stage 2 knows; the others are drawn from letters and digits."""


class Codes:
    """A fixed vector for each word: the sum of a random vector for each of its tokens, of length 1.

    Codes by character *and place* would tell anagrams apart, but were not learned (docs/log.md).
    """

    def __init__(self, tokenizer: CLIPTokenizer, width: int, unet: UNet2DConditionModel | None, seed: int = 0) -> None:
        second = torch.zeros(width, width)
        for name, module in () if unet is None else unet.named_modules():
            if name.endswith("attn2"):
                rows = torch.cat([module.to_k.weight, module.to_v.weight]).detach().float()
                second += rows.T @ rows / rows.square().sum() * width
        # Without a UNet nothing is known of what it will read: all directions count alike.
        values, vectors = torch.linalg.eigh(second / (second.trace() / width) if second.any() else torch.eye(width))
        shape = vectors @ torch.diag((values + READ).rsqrt()) @ vectors.T
        noise = torch.randn(len(tokenizer), width, generator=torch.Generator().manual_seed(seed))
        self.vectors = noise @ shape

    def __call__(self, words: list[list[int]]) -> Tensor:
        """(n, width) codes of words given as token ids."""
        return F.normalize(torch.stack([self.vectors[w].sum(0) for w in words]), dim=1)


@dataclass(frozen=True)
class Pairs:
    """Captions with words beside the same without, and which places of them belong together."""

    plain: Tensor
    """(n, length) token ids without words."""
    named: Tensor
    """(n, length) token ids with words."""
    same: Tensor
    """(3, k): row, place in `named`, place in `plain` of tokens whose states stay."""
    classes: Tensor
    """(3, m): the same of class words whose states get their word's code."""
    words: list[list[int]]
    """Token ids of the word of each column of `classes`; its last token stands right before."""


def any_word(rng: Random) -> str:
    """A word of 3 to 6 letters, sometimes with a digit at the end, or one of the world's identifiers."""
    if rng.random() < KNOWN:
        return rng.choice(IDENTIFIERS)
    word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 6)))
    return word[:-1] + rng.choice(string.digits) if rng.random() < 0.1 else word


def captions_with_words(rng: Random, tokenizer: CLIPTokenizer, count: int) -> Pairs:
    """`count` captions of random scenes whose subjects are named by words in about two of three cases."""
    length, pad = tokenizer.model_max_length, tokenizer.pad_token_id
    plains, nameds, words = [], [], []
    same: list[tuple[int, int, int]] = []
    classes: list[tuple[int, int, int]] = []
    known: dict[str, list[int]] = {}

    def ids(word: str) -> list[int]:
        if word not in known:
            known[word] = tokenizer(word, add_special_tokens=False).input_ids
        return known[word]

    while len(plains) < count:
        plain, named = [tokenizer.bos_token_id], [tokenizer.bos_token_id]
        row, kept, marks, row_words = len(plains), [(0, 0)], [], []
        texts = [w for w in caption(rng, random_scene(rng)).split() if w not in IDENTIFIERS]
        for text in texts:
            if text in CLASSES and rng.random() < 0.7:
                word = ids(any_word(rng))
                named += word
                marks.append((len(named), len(plain)))
                row_words.append(word)
            else:
                kept += [(len(named) + i, len(plain) + i) for i in range(len(ids(text)))]
            plain += ids(text)
            named += ids(text)
        if len(named) > length - 2:
            continue
        kept += [(i, i) for i in range(len(named) + 1, length)]
        plains.append(plain + [pad] * (length - len(plain)))
        nameds.append(named + [pad] * (length - len(named)))
        same += [(row, a, b) for a, b in kept]
        classes += [(row, a, b) for a, b in marks]
        words += row_words
    return Pairs(torch.tensor(plains), torch.tensor(nameds), torch.tensor(same).T, torch.tensor(classes).T, words)


@torch.no_grad()
def anchor(encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> Tensor:
    """(width,) what a word of no meaning is made of: the mean state of colours in "a red", "a blue", ...

    The UNet reads a subject's looks from the adjectives before its class word, so this is where it looks for them.
    """
    ids = tokenizer([f"a {color}" for color in COLORS], return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state[:, 2].mean(0)


def losses(
    old: CLIPTextModel, new: CLIPTextModel, pairs: Pairs, codes: Codes, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared errors of captions without words, of the other states beside words, and of the words' states.

    place: the encoder's :func:`anchor`.
    """
    with torch.no_grad():
        wanted = old(pairs.plain).last_hidden_state
    both = new(torch.cat([pairs.plain, pairs.named])).last_hidden_state
    plain, named = both.chunk(2)
    row, a, b = pairs.same
    at, cls, origin = pairs.classes
    bare, code = wanted[at, origin], SIZE * codes(pairs.words)
    targets = torch.cat([place + place.norm() * code, bare + bare.norm(dim=1, keepdim=True) * code])
    found = torch.cat([named[at, cls - 1], named[at, cls]])
    return F.mse_loss(plain, wanted), F.mse_loss(named[row, a], wanted[row, b]), F.mse_loss(found, targets)


def train_words(
    config: PretrainConfig,
    encoder: CLIPTextModel,
    unet: UNet2DConditionModel | None,
    tokenizer: CLIPTokenizer,
    work: Path,
) -> CLIPTextModel:
    """Train a copy of `encoder` for the stage's minutes, on the CPU, and save its average; return it.

    unet: the one that reads the states, if there is one: only its keys' and values' weights are looked at.
    """
    torch.manual_seed(config.seed)
    folder = work / "words"
    old, new = encoder.cpu().eval().requires_grad_(False), deepcopy(encoder.cpu()).requires_grad_(True)
    codes, place = Codes(tokenizer, config.text_width, unet, config.seed), anchor(old, tokenizer)
    optimizer = torch.optim.AdamW(new.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    ema = Ema([new], 0.995)
    stage = Stage(folder, config.minutes["words"], {"encoder": new, "ema": ema, "adamw": optimizer})
    rng = Random(f"words {config.seed} {stage.step}")
    for spent in stage:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * constant_then_cosine(spent, stage.step, 50, turn=0.4, floor=0.01)
        keep, same, word = losses(old, new, captions_with_words(rng, tokenizer, 64), codes, place)
        optimizer.zero_grad()
        (4 * keep + 4 * same + word).backward()
        torch.nn.utils.clip_grad_norm_(new.parameters(), 1.0)
        optimizer.step()
        ema.update()
        stage.samples += 64
        if stage.step % 100 == 0:
            stage.log(keep=keep.item(), same=same.item(), word=word.item())
    ema.swap()
    with torch.no_grad():
        keep, same, word = losses(old, new, captions_with_words(Random("held out"), tokenizer, 512), codes, place)
    stage.log(held_out_keep=keep.item(), held_out_same=same.item(), held_out_word=word.item())
    new.eval().requires_grad_(False)
    new.save_pretrained(folder / "model")
    return new
