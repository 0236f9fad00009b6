"""A new word of a text encoder: what it changes, what it leaves alone, and its way into files and off again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, AttachedParts, NewToken, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import AdapterFileError, ConfigError, IncompatibleModelError
from tests.adapters.nets import disturb


class Encoder(nn.Module):
    """A text encoder of 10 words, 4 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(4, 4)})

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def forward(self, numbers: Tensor) -> Tensor:
        return self.self_attn["q_proj"](self.words(numbers))


class UNet(nn.Module):
    """One layer of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1 = nn.ModuleDict({"to_q": nn.Linear(4, 4)})


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def word(text: str = "sks", count: int = 2, width: int = 4) -> NewToken:
    return NewToken(text, {"text_encoder": torch.randn(count, width, generator=torch.Generator().manual_seed(1))})


def test_new_numbers_have_the_new_vectors_and_old_ones_their_own(encoder: Encoder) -> None:
    before, names = encoder.words(torch.arange(10)).detach(), set(encoder.state_dict())
    first, second = word("one"), word("two", count=3)
    for it in (first, second):
        it.install({"text_encoder": encoder})
    assert (first.numbers("text_encoder"), second.numbers("text_encoder")) == (range(10, 12), range(12, 15))
    found = encoder.words(torch.tensor([[0, 10, 9], [14, 12, 11]]))
    assert torch.equal(found[0], torch.stack([before[0], first.vectors["text_encoder"][0], before[9]]))
    assert torch.equal(found[1, 0], second.vectors["text_encoder"][2])
    assert set(encoder.state_dict()) == names
    first.detach()
    assert second.numbers("text_encoder") == range(10, 13), "places are given anew"
    assert torch.equal(encoder.words(torch.tensor([10])), second.vectors["text_encoder"][:1])
    second.detach()
    second.detach()
    assert type(encoder.words) is nn.Embedding
    assert torch.equal(encoder.words(torch.arange(10)), before)


def test_only_the_new_vectors_learn(encoder: Encoder) -> None:
    encoder.requires_grad_(False)
    new = word()
    new.install({"text_encoder": encoder})
    encoder(torch.tensor([1, 11, 2])).sum().backward()
    gradient = new.vectors["text_encoder"].grad
    assert gradient is not None
    assert gradient[0].abs().sum() == 0, "it was not in the prompt"
    assert gradient[1].abs().sum() > 0
    assert encoder.words.weight.grad is None


def test_vectors_stay_fp32_on_a_model_in_half_precision(encoder: Encoder) -> None:
    new = word()
    new.install({"text_encoder": encoder.bfloat16()})
    output = encoder(torch.tensor([1, 10]))
    assert output.dtype == torch.bfloat16
    assert new.vectors["text_encoder"].dtype == torch.float32


def test_another_base(encoder: Encoder) -> None:
    with pytest.raises(IncompatibleModelError, match="5 wide, the text_encoder's 4: they are for another base"):
        word(width=5).install({"text_encoder": encoder})
    with pytest.raises(IncompatibleModelError, match="embeddings for a text_encoder, which this base does not have"):
        word().install({})
    with pytest.raises(IncompatibleModelError, match="no embeddings of 'sks' for the text_encoder_2"):
        word().install({"text_encoder": encoder, "text_encoder_2": encoder})
    assert type(encoder.words) is nn.Embedding


@pytest.fixture
def whole(encoder: Encoder) -> AttachedParts:
    """Adapters on UNet and text encoder, and a word."""
    config, new = LoRAConfig(rank=2, alpha=2.0), word()
    parts = {"unet": attach(UNet(), config), "text_encoder": attach(encoder, config, "text")}
    for part in parts.values():
        for _, layer, adapter in part.layers():
            disturb(adapter, layer.base_weight)
    new.install({"text_encoder": encoder})
    return AttachedParts(parts, new, lr_ratios={"text_encoder": 0.5, "word": 3.0})


def file_of(whole: AttachedParts) -> AdapterFile:
    return AdapterFile.from_attached(
        whole.parts["unet"],
        base="b",
        token="sks",
        class_word="dog",
        training={},
        text_encoders={"text_encoder": whole.parts["text_encoder"]},
        word=whole.word,
    )


def test_parts_are_switched_as_one(whole: AttachedParts, encoder: Encoder) -> None:
    numbers = torch.tensor([1, 2])
    changed = encoder(numbers)
    with whole.disabled():
        plain = encoder(numbers)
        assert whole.word is not None
        assert not whole.word.active
    assert whole.word.active
    assert torch.equal(encoder(numbers), changed)
    assert not torch.equal(plain, changed)
    whole.detach()
    assert torch.equal(encoder(numbers), plain)
    assert sorted(whole.adapters) == ["attn1.to_q", "text_encoder.self_attn.q_proj"]


def test_learning_rates_of_parts(whole: AttachedParts) -> None:
    groups = whole.parameter_groups()
    assert {options.lr_ratio for options in groups} == {1.0, 0.5, 3.0}
    (options,) = [it for it in groups if it.lr_ratio == 3]
    assert not options.weight_decay
    assert whole.word is not None
    assert groups[options] == list(whole.word.parameters())
    assert sum(len(members) for members in groups.values()) == len(list(whole.parameters()))


def test_file_keeps_the_embeddings(whole: AttachedParts, tmp_path: Path) -> None:
    file = file_of(whole)
    file.save(tmp_path / "dog.safetensors")
    again = AdapterFile.load(tmp_path / "dog.safetensors")
    assert again.summary() == file.summary()
    assert again.summary()["embeddings"] == {"text_encoder": [2, 4]}
    (read,), meant = again.words(), whole.word
    assert meant is not None
    assert read.word == "sks"
    assert torch.equal(read.vectors["text_encoder"], meant.vectors["text_encoder"])
    assert "embedding.text_encoder" in load_file(tmp_path / "dog.safetensors")
    assert again.part("unet").words() == []
    with pytest.raises(ConfigError, match="its own embeddings for 'sks': attach it to the whole base"):
        again.attach(UNet())


def test_file_of_a_word_alone(tmp_path: Path) -> None:
    nothing = attach(UNet(), LoRAConfig(), "none")
    file = AdapterFile.from_attached(nothing, base="b", token="sks", class_word="dog", training={}, word=word(count=1))
    file.save(tmp_path / "dog.safetensors")
    again = AdapterFile.load(tmp_path / "dog.safetensors")
    assert (again.parts, again.summary()["parameters"]) == ((), 4)
    with pytest.raises(AdapterFileError, match="it changes no layer"):
        AdapterFile.from_attached(nothing, base="b", token="sks", class_word="dog", training={})


@pytest.mark.parametrize(
    "embeddings",
    [
        "{}",
        '{"unet":[2,4]}',
        '{"text_encoder":[2]}',
        '{"text_encoder":[0,4]}',
        "7",
        '{"text_encoder":[1000000000000000000000000000000,4]}',
    ],
)
def test_damaged_description_of_embeddings(whole: AttachedParts, embeddings: str) -> None:
    file = file_of(whole)
    with pytest.raises(AdapterFileError, match="embeddings|extra tensors"):
        AdapterFile.from_content(file.tensors, file.to_header() | {"dreamtune.embeddings": embeddings})


def with_two_words(file: AdapterFile) -> AdapterFile:
    """The same with a word that is not the token's; its name has a dot, as file names have."""
    vectors = {**file.vectors, "z.x": {"text_encoder": torch.ones(3, 4)}}
    return replace(file, others=(("none", "cat"), ("z.x", "cat"))).with_vectors(vectors)


def test_file_of_several_words(whole: AttachedParts, tmp_path: Path) -> None:
    file = with_two_words(file_of(whole))
    file.save(tmp_path / "both.safetensors")
    again = AdapterFile.load(tmp_path / "both.safetensors")
    assert again.summary() == file.summary()
    assert again.summary()["further_embeddings"] == {"z.x": {"text_encoder": [3, 4]}}
    assert again.summary()["parameters"] == file_of(whole).summary()["parameters"] + 12
    first, second = again.words()
    assert (first.word, second.word) == ("sks", "z.x")
    assert torch.equal(second.vectors["text_encoder"], torch.ones(3, 4))
    assert again.part("unet").words() == []
    assert again.with_vectors({}).words() == []
    one = again.with_vectors({"sks": again.vectors["sks"]})
    assert replace(one, others=()).to_bytes() == file_of(whole).to_bytes(), "a file of one word is what it was"
    with pytest.raises(ConfigError, match="its own embeddings for 'sks' and 'z.x': attach it to the whole base"):
        again.attach(UNet())


def test_several_words_are_switched_as_one(whole: AttachedParts) -> None:
    words = with_two_words(file_of(whole)).words()
    parts = AttachedParts({}, *words)
    assert parts.words == words
    assert len(list(parts.parameters())) == 2
    with parts.disabled():
        assert not any(it.active for it in words)
    assert all(it.active for it in words)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("7", "further_embeddings is not a JSON object"),
        ('{"z.x":7}', "other sizes for 'z.x' than for the token"),
        ('{"z.x":{}}', "other sizes for 'z.x' than for the token"),
        ('{"z.x":{"text_encoder":[3,5]}}', "other sizes for 'z.x' than for the token"),
        ('{"z.x":{"text_encoder_2":[3,4]}}', "other sizes for 'z.x' than for the token"),
        ('{"z.x":{"text_encoder":[3]}}', "no valid size for the text_encoder"),
        ('{"sks":{"text_encoder":[3,4]}}', "'sks', which is not another subject's token"),
        ('{"other":{"text_encoder":[3,4]}}', "'other', which is not another subject's token"),
        ('{"none":{"text_encoder":[3,4]}}', "it lacks 1 tensors, first"),
        ("{}", "has 1 extra tensors"),
    ],
)
def test_damaged_description_of_further_words(whole: AttachedParts, told: str, message: str) -> None:
    file = with_two_words(file_of(whole))
    with pytest.raises(AdapterFileError, match=message):
        AdapterFile.from_content(file.tensors, file.to_header() | {"dreamtune.further_embeddings": told})
