"""Latents and prompts are computed once, and never taken from something else's entry."""

import dataclasses
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from dreamtune.data.buckets import Framing
from dreamtune.data.cache import Cache
from dreamtune.data.encode import prompt_conditionings, read_pixels, subject_examples
from dreamtune.data.prior import prior_examples, prior_latents
from dreamtune.data.subject import Subject, load_subject
from dreamtune.errors import BaseModelError, DatasetError
from dreamtune.models import Base, load_base
from dreamtune.models.sdxl import SdxlBase
from tests.data.mess import encoded, noise

FRAMING = Framing(32, cell=4, step=8)


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(str(tiny), device="cpu")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    folder = tmp_path / "dog"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (96, 60), (64, 64)]):
        noise(number, size).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a sks dog, asleep")
    return load_subject(folder, "dog", framing=FRAMING)


def test_examples_have_their_shape_prompt_and_conditioning(base: Base, subject: Subject, tmp_path: Path) -> None:
    examples = subject_examples(base, subject, flip=True, cache=Cache("latents", tmp_path))
    assert [tuple(example.latent.shape[1:]) for example in examples] == [(8, 8), (6, 10), (8, 8)] * 2
    assert [[subject.prompts[row] for row in example.prompts] for example in examples] == [
        ["a sks dog, asleep"],
        ["a sks dog"],
        ["a sks dog"],
    ] * 2
    assert all(example.time_ids is not None for example in examples)
    assert examples[1].time_ids is not None
    assert examples[1].time_ids.tolist() == [60, 96, 0, 0, 24, 40]
    wide = read_pixels(subject.photos[1])
    assert wide.shape == (3, 24, 40)
    assert torch.equal(examples[1].latent, base.encode_images(wide[None])[0])
    assert torch.equal(examples[4].latent, base.encode_images(wide.flip(-1)[None])[0]), "mirrored before it is encoded"


def test_latents_are_computed_once(base: Base, subject: Subject, tmp_path: Path) -> None:
    cache = Cache("latents", tmp_path)
    first = subject_examples(base, subject, flip=True, cache=cache)
    told: list[tuple[int, int]] = []
    with (
        patch.object(Base, "encode_images", side_effect=AssertionError),
        patch("dreamtune.data.encode.read_pixels", side_effect=AssertionError),
    ):
        again = subject_examples(base, subject, True, cache, on_progress=lambda done, total: told.append((done, total)))
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(first, again, strict=True))
    assert told[-1] == (6, 6)


def test_whatever_changes_is_computed_anew(base: Base, subject: Subject, tmp_path: Path) -> None:
    cache = Cache("latents", tmp_path)
    subject_examples(base, subject, cache=cache)

    def entries(base: Base, subject: Subject) -> int:
        subject_examples(base, subject, cache=cache)
        return len([path for path in tmp_path.rglob("*.safetensors") if "latents" in path.parts])

    assert entries(base, subject) == 3
    folder = subject.photos[0].path.parent
    assert entries(base, load_subject(folder, "dog", framing=Framing(40, cell=4, step=8))) == 6, "another size"
    assert entries(base, load_subject(folder, "dog", framing=dataclasses.replace(FRAMING, buckets=False))) == 7, (
        "a crop"
    )
    noise(9, (64, 64)).save(folder / "0.png")
    assert entries(base, load_subject(folder, "dog", framing=FRAMING)) == 8, "other bytes"
    vae = type(base.vae).from_config(base.vae.config)
    assert entries(dataclasses.replace(base, vae=vae), load_subject(folder, "dog", framing=FRAMING)) == 11, (
        "another VAE"
    )


def test_a_file_that_changed_meanwhile_is_refused(base: Base, subject: Subject, tmp_path: Path) -> None:
    noise(9, (64, 64)).save(subject.photos[2].path)
    with pytest.raises(DatasetError, match=r"2\.png has changed"):
        subject_examples(base, subject, cache=Cache("latents", tmp_path))
    subject.photos[2].path.unlink()
    with pytest.raises(DatasetError, match=r"2\.png.*was readable earlier"):
        subject_examples(base, subject, cache=Cache("latents", tmp_path))


def test_nan_is_never_kept(base: Base, subject: Subject, tmp_path: Path) -> None:
    bad = torch.full((1, 4, 8, 8), torch.nan)
    refused = pytest.raises(BaseModelError, match=r"encodes 0\.png to NaN")
    with patch.object(Base, "encode_images", return_value=bad), refused:
        subject_examples(base, subject, cache=Cache("latents", tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_pixels_of_a_large_jpeg_are_those_of_the_whole(tmp_path: Path) -> None:
    image = Image.radial_gradient("L").resize((1600, 1200)).convert("RGB")
    (tmp_path / "a.jpg").write_bytes(encoded(image, "JPEG", quality=95))
    (photo,) = load_subject(tmp_path, "dog", framing=Framing(128, step=32)).photos
    from dreamtune.data.images import open_picture, quiet, to_tensor

    with quiet():
        whole = to_tensor(photo.crop.apply(open_picture(photo.path).image))
    assert (read_pixels(photo) - whole).abs().max() < 0.03


def test_prompts_are_encoded_once(base: Base, tmp_path: Path) -> None:
    cache = Cache("prompts", tmp_path)
    first = prompt_conditionings(base, ["a dog", "a cat", "a dog"], cache)
    assert torch.equal(first[0].embedding, first[2].embedding)
    assert torch.equal(first[1].embedding, base.condition(["a cat"])[0].embedding)
    with patch.object(Base, "condition", side_effect=AssertionError):
        again = prompt_conditionings(base, ["a cat", "a dog"], cache)
    assert torch.equal(again[0].embedding, first[1].embedding)


def test_no_prompt_is_what_guidance_leads_away_from(tiny_sdxl: Path, tmp_path: Path) -> None:
    base, cache = load_base(tiny_sdxl, device="cpu"), Cache("prompts", tmp_path)
    for zeros in (True, False, True):  # whichever was in the cache before
        some, none = prompt_conditionings(dataclasses.replace(base, zeros_for_empty=zeros), ["a dog", ""], cache)
        assert some.pooled is not None and none.pooled is not None
        assert bool(some.embedding.any()) and bool(some.pooled.any())
        assert bool(none.embedding.any()) is not zeros and bool(none.pooled.any()) is not zeros
        assert torch.equal(none.embedding, base.condition([""])[0].embedding) is not zeros


def test_prompts_of_other_tokens_are_others(tiny_sdxl: Path, tmp_path: Path) -> None:
    """The second text encoder reads what its own tokenizer makes of a prompt."""
    base, cache = load_base(tiny_sdxl, device="cpu"), Cache("prompts", tmp_path)
    assert isinstance(base, SdxlBase)
    (first,) = prompt_conditionings(base, ["a dog"], cache)
    filled_otherwise = load_base(tiny_sdxl, device="cpu").tokenizer
    filled_otherwise.pad_token = "?"
    other = dataclasses.replace(base, tokenizer_2=filled_otherwise)
    (second,) = prompt_conditionings(other, ["a dog"], cache)
    assert torch.equal(second.embedding, other.condition(["a dog"])[0].embedding)
    assert not torch.equal(second.embedding, first.embedding)


def test_class_pictures_depend_on_what_guidance_leads_away_from(
    tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path))
    base = load_base(tiny_sdxl, device="cpu")
    other = dataclasses.replace(base, zeros_for_empty=not base.zeros_for_empty)
    one, two = (prior_latents(it, "a dog", 1, 32, steps=2, guidance=5.0) for it in (base, other))
    assert not torch.equal(one, two)
    assert torch.equal(prior_latents(base, "a dog", 1, 32, steps=2, guidance=5.0), one)


def test_what_another_arithmetic_computed_is_not_taken(
    base: Base, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU rounds otherwise than a GPU, and TF32 otherwise than fp32."""
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))

    def everything() -> list[Path]:
        subject_examples(base, subject)
        prompt_conditionings(base, ["a dog"])
        prior_latents(base, "a dog", 1, 32, steps=1, guidance=1.0)
        return sorted((tmp_path / "cache").rglob("*.safetensors"))

    first = everything()
    assert everything() == first
    for kind in ("cuda", "cuda, products in TF32 or less"):
        for user in ("encode", "prior"):
            monkeypatch.setattr(f"dreamtune.data.{user}.arithmetic", lambda device, kind=kind: kind)
        before = everything()
        assert len(before) == 2 * len(first), kind
        for path in set(before) - set(first):
            path.unlink()


def test_class_pictures_are_whole_squares() -> None:
    examples = prior_examples(torch.zeros(2, 4, 8, 8), 3, 64)
    assert [example.prompts for example in examples] == [(3,), (3,)]
    assert examples[0].time_ids is not None
    assert examples[0].time_ids.tolist() == [64, 64, 0, 0, 64, 64]
