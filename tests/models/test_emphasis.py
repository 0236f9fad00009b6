"""Weights of words in prompts: how they are read, and what they do to what the UNet is told."""

from pathlib import Path
from time import process_time

import pytest
import torch

from dreamtune.adapters import NewToken
from dreamtune.errors import ConfigError
from dreamtune.models import Base, load_base
from dreamtune.models.emphasis import Emphasis, emphasized
from dreamtune.models.sdxl import SdxlBase


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(str(tiny), device="cpu")


@pytest.mark.parametrize(
    ("prompt", "text", "weights"),
    [
        ("a dog", "a dog", [1] * 5),
        ("a (red:1.3) dog", "a red dog", [1, 1, 1.3, 1.3, 1.3, 1, 1, 1, 1]),
        ("(a)", "a", [1.1]),
        ("[a]", "a", [1 / 1.1]),
        ("((a) b:2)c", "a bc", [2.2, 2, 2, 1]),
        ("(a: .5 )(b:-1)(c:0)", "abc", [0.5, -1, 0]),
        ("((((a))))", "a", [1.1**4]),
        ("x(a(b:2)c:3)y", "xabcy", [1, 3, 6, 3, 1]),
        ("a)b:2)", "a)b:2)", [1] * 6),
        ("(ab", "ab", [1.1, 1.1]),
        ("(a[b)c]", "abc]", [1.1, 1, 1, 1]),
        (r"\(a\) \\", "(a) \\", [1] * 5),
        ("(a:1.2.3)", "a:1.2.3", [1.1] * 7),
        ("e\u0301(e\u0301:2)", "\u00e9\u00e9", [1, 2]),
        ("()", "", []),
    ],
)
def test_how_weights_are_written(prompt: str, text: str, weights: list[float]) -> None:
    read = Emphasis.of(prompt)
    assert read.text == text
    assert read.weights == pytest.approx(weights)


@pytest.mark.parametrize("prompt", ["(a:11)", "(a:-10.5)", "((a:5):5)", "(" * 30 + "a", f"(a:{'9' * 400})"])
def test_weights_have_a_bound(prompt: str) -> None:
    with pytest.raises(ConfigError, match="use weights from -10 to 10"):
        Emphasis.of(prompt)


@pytest.mark.parametrize(
    "prompt", ["[" * 20_000 + "a" + ")" * 20_000, "(a)" * 10_000, ": " * 20_000, "(" + ":1" * 20_000]
)
def test_long_prompts_are_read_in_a_moment(prompt: str) -> None:
    began = process_time()
    Emphasis.of(prompt)
    assert process_time() - began < 1


def test_states_are_multiplied_and_keep_their_mean_length() -> None:
    states = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)) + 1
    weights = [torch.tensor([1.0, 1.3, 1, 0.5, 1]), torch.ones(5)]
    found = emphasized(states, weights)
    assert torch.equal(found[1], states[1])
    one = found[0] / states[0]
    assert one[1].mean() / one[0].mean() == pytest.approx(1.3, rel=1e-5)
    assert one[3].mean() / one[2].mean() == pytest.approx(0.5, rel=1e-5)
    assert found[0].norm(dim=-1).mean() == pytest.approx(states[0].norm(dim=-1).mean().item(), rel=1e-5)


def test_a_weight_is_for_the_tokens_of_its_word(base: Base) -> None:
    """The states of its tokens, and no others, are 1.5 times what they were beside them."""
    (plain,) = base.condition(["a red dog"])
    (told,) = base.condition(["a (red:1.5) dog"], weights=True)
    ratio = (told.embedding / plain.embedding).median(dim=-1).values
    end = base.tokens("")["text_encoder"][1]
    red = range(*(base.tokens(text)["text_encoder"].index(end) for text in ("a", "a red")))
    assert len(red) > 0
    assert ratio / ratio[0] == pytest.approx([1.5 if n in red else 1.0 for n in range(len(ratio))], rel=1e-4)


def test_without_them_a_prompt_is_what_it_was(base: Base) -> None:
    prompts = ["a red dog", "a (red:1.0) dog", "", "a (red:1.5) dog"]
    plain = base.condition(["a red dog", "a red dog", "", "a (red:1.5) dog"])
    for weighed, told in zip(base.condition(prompts[:3], weights=True), plain[:3], strict=True):
        assert torch.equal(weighed.embedding, told.embedding)
    assert torch.equal(base.condition(prompts[3:])[0].embedding, plain[3].embedding), "brackets are letters"


def test_a_new_word_can_have_a_weight(tiny: Path) -> None:
    base = load_base(str(tiny), device="cpu")
    word = NewToken("sks", {"text_encoder": torch.ones(2, base.text_encoder.config.hidden_size)})
    base.add_token(word)
    (plain,), (told,) = base.condition(["sks dog"]), base.condition(["(sks:2) dog"], weights=True)
    ratio = (told.embedding / plain.embedding).median(dim=-1).values
    assert (ratio / ratio[0])[:4] == pytest.approx([1, 2, 2, 1], rel=1e-4)


def test_both_encoders_of_sdxl_have_them_and_the_pooled_state_has_not(tiny_sdxl: Path) -> None:
    base = load_base(str(tiny_sdxl), device="cpu")
    assert isinstance(base, SdxlBase)
    (plain,), (told,) = base.condition(["red"]), base.condition(["(red:1.5)"], weights=True)
    assert plain.pooled is not None and told.pooled is not None and torch.equal(plain.pooled, told.pooled)
    first = base.text_encoder.config.hidden_size
    for part in (slice(None, first), slice(first, None)):
        ratio = (told.embedding[:, part] / plain.embedding[:, part]).median(dim=-1).values
        assert ratio[1] / ratio[0] == pytest.approx(1.5, rel=1e-3)
    assert torch.equal(base.condition(["red"], weights=True)[0].embedding, plain.embedding)
