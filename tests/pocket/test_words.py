"""The stage that keeps a nonsense word itself: what it asks for, and that it learns it."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from dreamtune.pocket import path
from dreamtune.pocket.pretrain.config import PretrainConfig
from dreamtune.pocket.pretrain.text import new_text_encoder
from dreamtune.pocket.pretrain.tokenizer import new_tokenizer
from dreamtune.pocket.pretrain.words import SIZE, Codes, anchor, any_word, captions_with_words, losses, train_words
from dreamtune.pocket.world import CLASSES
from dreamtune.pocket.world.captions import IDENTIFIERS


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return new_tokenizer(40)


@pytest.fixture(scope="module")
def encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(0)
    config = PretrainConfig(text_width=32, text_layers=1)
    return new_text_encoder(config, tokenizer).eval()


def test_captions_differ_by_their_words_alone(tokenizer: CLIPTokenizer) -> None:
    pairs = captions_with_words(Random(0), tokenizer, 60)
    assert pairs.plain.shape == pairs.named.shape == (60, 40)
    row, place, origin = pairs.same
    assert torch.equal(pairs.named[row, place], pairs.plain[row, origin])
    known = {tokenizer(word, add_special_tokens=False).input_ids[0] for word in IDENTIFIERS}
    assert not known & set(pairs.plain.flatten().tolist())
    classes = {tokenizer(word, add_special_tokens=False).input_ids[0] for word in CLASSES}
    at, place, origin = pairs.classes
    assert len(pairs.words) == len(at) > 20
    assert set(pairs.plain[at, origin].tolist()) <= classes
    assert torch.equal(pairs.named[at, place], pairs.plain[at, origin]), "the class word"
    for word, row, end in zip(pairs.words, at, place, strict=True):
        assert pairs.named[row, end - len(word) : end].tolist() == word


def test_words_are_known_and_new_ones() -> None:
    words = [any_word(Random(number)) for number in range(400)]
    assert all(3 <= len(word) <= 6 and word.isalnum() for word in words)
    assert 0.2 < sum(word in IDENTIFIERS for word in words) / 400 < 0.4
    assert len(set(words)) > 250


def test_codes_belong_to_words_and_are_seldom_read(tokenizer: CLIPTokenizer) -> None:
    unet = UNet2DConditionModel.from_pretrained(path() / "unet").float()
    assert isinstance(unet, UNet2DConditionModel)
    words = [tokenizer(any_word(Random(number)), add_special_tokens=False).input_ids for number in range(50)]
    codes, even = (Codes(tokenizer, 160, it)(words) for it in (unet, None))
    assert torch.equal(codes, Codes(tokenizer, 160, unet)(words)), "always the same"
    assert torch.allclose(codes.norm(dim=1), torch.ones(50))
    rows = torch.cat([m.to_k.weight for n, m in unet.named_modules() if n.endswith("attn2")]).detach()
    assert (codes @ rows.T).square().mean() < 0.9 * (even @ rows.T).square().mean()
    different = [(i, j) for i in range(50) for j in range(i) if not set(words[i]) & set(words[j])]
    assert max(abs(float(codes[i] @ codes[j])) for i, j in different) < 0.5


@torch.no_grad()
def test_nothing_is_asked_of_captions_without_words_but_to_stay(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel
) -> None:
    pairs, codes = captions_with_words(Random(1), tokenizer, 8), Codes(tokenizer, 32, None)
    place = anchor(encoder, tokenizer)
    keep, _, word = losses(encoder, encoder, pairs, codes, place)
    assert keep == 0
    row, cls, origin = pairs.classes
    bare, named = encoder(pairs.plain).last_hidden_state[row, origin], encoder(pairs.named).last_hidden_state
    code = SIZE * codes(pairs.words)
    own = (named[row, cls - 1] - place - place.norm() * code).square().mean()
    of_class = (named[row, cls] - bare - bare.norm(dim=1, keepdim=True) * code).square().mean()
    assert float(word) == pytest.approx(float(own + of_class) / 2, rel=1e-4)


@pytest.mark.slow
def test_a_word_becomes_the_same_wherever_it_stands(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, tmp_path: Path
) -> None:
    """For half a minute, with a word that the training has never met."""
    config = replace(PretrainConfig(), text_width=32, text_layers=1, minutes={"words": 0.5})

    def alike(model: CLIPTextModel) -> float:
        states = []
        for named, plain in (("a wubq cat", "a cat"), ("a mug and a wubq cat", "a mug and a cat")):
            a, b = (
                model(tokenizer(text, return_tensors="pt").input_ids).last_hidden_state[0, -2]
                for text in (named, plain)
            )
            states.append(a - b)
        return F.cosine_similarity(states[0], states[1], dim=0).item()

    before = alike(encoder)
    after = alike(train_words(config, deepcopy(encoder), None, tokenizer, tmp_path))
    assert after > max(before, 0.5)
    assert CLIPTextModel.from_pretrained(tmp_path / "words" / "model").config.hidden_size == 32
