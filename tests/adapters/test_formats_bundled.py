"""Embeddings that come with an adapter become its word's vectors, or are left out with a remark."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats import bundle_embeddings, read_adapter

SDXL = (("clip_l", 768), ("clip_g", 1280))
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(width: int = 768) -> dict[str, Tensor]:
    return {f"{KOHYA}.lora_down.weight": torch.ones(2, width), f"{KOHYA}.lora_up.weight": torch.ones(8, 2)}


def vectors(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(width))


@pytest.mark.parametrize(
    ("width", "tensors", "found"),
    [
        (768, {"string_to_param.*": vectors(2, 768)}, {"text_encoder": 768}),
        (1024, {"emb_params": vectors(2, 1024).half()}, {"text_encoder": 1024}),
        (2048, {"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}, {"text_encoder": 768, "text_encoder_2": 1280}),
    ],
)
def test_vectors_of_one_word(width: int, tensors: dict[str, Tensor], found: dict[str, int], tmp_path: Path) -> None:
    save_file(lora(width) | {f"bundle_emb.sks.{name}": t for name, t in tensors.items()}, tmp_path / "a.safetensors")
    imported = read_adapter(tmp_path / "a.safetensors")
    assert imported.file.token == "sks"
    assert imported.file.embeddings == {part: (2, width) for part, width in found.items()}
    (word,) = imported.file.words()
    for tensor, vector in zip(tensors.values(), word.vectors.values(), strict=True):
        assert torch.equal(vector, tensor.float())
    assert not any("embeddings" in remark for remark in imported.remarks)


@pytest.mark.parametrize(
    ("width", "tensors", "remark"),
    [
        (2048, {"a.clip_l": vectors(2, 768)}, "they do not fit one word of that base"),
        (1024, {"a.emb_params": vectors(2, 768)}, "they do not fit one word of that base"),
        (768, {"a.clip_l": vectors(2, 768), "a.clip_g": vectors(2, 1280)}, "they do not fit one word of that base"),
        (768, {"my dog.emb_params": vectors(2, 768)}, "the embeddings of 'my dog' are left out"),
        (
            768,
            {f"{word}.emb_params": vectors(2, 100) for word in "abcd"},
            r"the embeddings of 4 words \('a', 'b', 'c', ...\)",
        ),
        (768, {"a.emb_params": vectors(2, 100)}, "they do not fit one word"),
        (768, {"a.emb_params": vectors(76, 768)}, "they do not fit one word"),
        (768, {"a.emb_params": torch.full((2, 768), torch.nan)}, "they do not fit one word"),
        (768, {"a.t5xxl": vectors(2, 768)}, "they do not fit one word"),
        (2048, {"a.clip_l": vectors(2, 768), "a.clip_g": vectors(3, 1280)}, "they do not fit one word"),
    ],
)
def test_what_is_left_out(width: int, tensors: dict[str, Tensor], remark: str, tmp_path: Path) -> None:
    save_file(lora(width) | {f"bundle_emb.{name}": t for name, t in tensors.items()}, tmp_path / "a.safetensors")
    imported = read_adapter(tmp_path / "a.safetensors")
    assert (len(imported.file.layers), imported.file.embeddings) == (1, {})
    assert any(re.search(remark, it) for it in imported.remarks), imported.remarks


def test_several_words_in_both_text_encoders(tmp_path: Path) -> None:
    given = {f"bundle_emb.{word}.{key}": vectors(n, w) for n, word in enumerate(("sks", "zwx"), 1) for key, w in SDXL}
    save_file(lora(2048) | given, tmp_path / "a.safetensors")
    file = read_adapter(tmp_path / "a.safetensors").file
    assert file.new_tokens == {
        word: {"text_encoder": (n, 768), "text_encoder_2": (n, 1280)} for n, word in enumerate(("sks", "zwx"), 1)
    }
    assert bundle_embeddings(file, torch.float32).keys() == given.keys()
    file.save(tmp_path / "own.safetensors")
    assert AdapterFile.load(tmp_path / "own.safetensors").new_tokens == file.new_tokens


def test_vectors_of_several_words(tmp_path: Path) -> None:
    """Each word that can be read is; of one word in small letters and large only the first."""
    given = {"sks": vectors(2, 768), "SKS": vectors(2, 768), "x.y": vectors(1, 768), "zwx": vectors(3, 768) + 1}
    save_file(lora() | {f"bundle_emb.{word}.emb_params": t for word, t in given.items()}, tmp_path / "a.safetensors")
    imported = read_adapter(tmp_path / "a.safetensors")
    first, second = imported.file.words()
    assert imported.file.tokens == (first.word, second.word)
    assert (first.word, second.word) == ("SKS", "zwx")
    assert torch.equal(second.vectors["text_encoder"], given["zwx"])
    left_out = [remark for remark in imported.remarks if "embeddings" in remark]
    assert len(left_out) == 2 and "'x'" in left_out[0] and "the same word has others already" in left_out[1]
