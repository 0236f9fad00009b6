"""Adapters that each have a trained word, fused: the file holds all of the words with their vectors."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError
from dreamtune.models import Base
from dreamtune.pipelines import library
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.analyze.effects import effects
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.workspace import Workspace
from tests.fusion.conftest import Make


def vectors_of(path: Path) -> torch.Tensor:
    """Those of a file with one word."""
    (own,) = AdapterFile.load(path).vectors.values()
    return own["text_encoder"]


def test_each_word_keeps_its_vectors(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """In the fused file, and in a fusion of that; inspect and the app's library tell them."""
    plain, dog, cat = make("bb"), make("a", token="sks", words=2), make("ccc", token="xyz", words=3)
    both, more = tmp_path / "both.safetensors", tmp_path / "more.safetensors"
    assert main(["fuse", str(plain), str(dog), f"{cat}:0.7", "--out", str(both)]) == 0
    assert main(["fuse", str(make("dddd")), str(both), "--out", str(more)]) == 0
    for path, tokens in ((both, ("sks", "xyz", "bb")), (more, ("sks", "xyz", "bb", "dddd"))):
        fused = AdapterFile.load(path)
        assert fused.tokens == tokens
        assert fused.parts == ("unet", "text_encoder")
        assert list(fused.vectors) == ["sks", "xyz"]
        for word, own in (("sks", dog), ("xyz", cat)):
            assert torch.equal(fused.vectors[word]["text_encoder"], vectors_of(own))
    capsys.readouterr()
    assert main(["inspect", str(both)]) == 0
    shown = capsys.readouterr().out
    assert "\nnew token   sks, 2 vectors in text_encoder\nnew token   xyz, 3 vectors in text_encoder\n" in shown
    workspace = Workspace(tmp_path / "home")
    workspace.make()
    name = library.import_adapter(workspace, both, "both.safetensors")
    assert library.entry(workspace, name).subject == "sks dog, xyz dog, bb dog"


def test_recorded_fusions_read_both_words(tmp_path: Path, make: Make, base: Base) -> None:
    """A file of several words, too, and the base is as before."""
    given = [make("a", token="sks", words=2), make("bb", token="xyz", words=1)]
    both, out = tmp_path / "both.safetensors", tmp_path / "out.safetensors"
    options = ["--method", "gradient", "--steps", "1", "--device", "cpu"]
    assert main(["fuse", *map(str, given), *options, "--out", str(both)]) == 0
    assert main(["fuse", str(both), str(make("ccc")), *options, "--out", str(out)]) == 0
    assert list(AdapterFile.load(out).vectors) == ["sks", "xyz"]


def test_both_words_mean_what_each_means_alone(tmp_path: Path, tiny: Path, make: Make, base: Base) -> None:
    """Without changes of layers, so that nothing but the words is left: read, in a picture, and in regions."""
    alone = []
    for name, word in (("a", "sks"), ("bb", "xyz")):
        path = make(name, token=word, words=2)
        file = AdapterFile.load(path)
        zeros = {key: torch.zeros_like(it) for key, it in file.tensors.items()}
        replace(file, tensors=zeros).with_vectors(file.vectors).save(path)
        alone.append(path)
    both = tmp_path / "both.safetensors"
    assert main(["fuse", *map(str, alone), "--out", str(both)]) == 0
    for path, prompt in zip(alone, ("a sks dog", "at night a xyz dog"), strict=True):
        with base.attach(AdapterFile.load(path)):
            own = base.condition([prompt])[0].embedding
        with base.attach(AdapterFile.load(both)):
            assert torch.equal(base.condition([prompt])[0].embedding, own)
        assert not torch.equal(base.condition([prompt])[0].embedding, own)
    with base.attach(AdapterFile.load(alone[1])), pytest.raises(ConfigError, match="their own embeddings for 'xyz'"):
        base.attach(AdapterFile.load(both))
    assert not [word for word in base.words if word.installed], "nothing is left of what was refused"
    drawn = []
    common = ["--steps", "1", "--n", "1", "--base", str(tiny)]
    for number, adapters in enumerate(([both], alone)):
        given = [text for adapter in adapters for text in ("--adapter", str(adapter))]
        out = tmp_path / f"out{number}"
        assert main(["generate", *given, *common, "--prompt", "a sks dog, a xyz dog", "--out", str(out)]) == 0
        drawn.append(np.asarray(Image.open(min(out.glob("*.png")))))
    assert np.array_equal(*drawn)
    regions = ["--region", f"{both}@0,0,0.5,1=a sks dog", "--region", "@0.5,0,1,1=a dog"]
    assert main(["generate", *regions, *common, "--prompt", "at night", "--out", str(tmp_path / "regions")]) == 0


def test_words_are_exported(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    both, out = tmp_path / "both.safetensors", tmp_path / "xyz.safetensors"
    given = [make("a", token="sks", words=2), make("bb", token="xyz", words=1)]
    assert main(["fuse", *map(str, given), "--out", str(both)]) == 0
    for options, message in (
        (["embedding"], "embeddings of 'sks' and 'xyz', but such a file holds one word: choose one"),
        (["embedding", "--token", "rar"], "no embeddings of 'rar', only of 'sks' and 'xyz'"),
        (["lora", "--token", "sks"], "token applies only to the format embedding"),
        (["diffusers"], "must be a folder"),
    ):
        assert main(["export", str(both), "--out", str(out), "--format", *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(both), "--format", "embedding", "--token", "XYZ", "--out", str(out)]) == 0
    assert torch.equal(load_file(out)["emb_params"], vectors_of(given[1]))
    bundled, trimmed = tmp_path / "bundled.safetensors", tmp_path / "trimmed.safetensors"
    capsys.readouterr()
    assert main(["export", str(both), "--format", "kohya", "--bundle", "--out", str(bundled)]) == 0
    assert "A1111 and Forge load 'sks' and 'xyz' from this file" in capsys.readouterr().out
    tensors = load_file(bundled)
    for word, path in zip(("sks", "xyz"), given, strict=True):
        assert torch.equal(tensors[f"bundle_emb.{word}.string_to_param.*"], vectors_of(path))
    assert main(["trim", str(both), "--energy", "0.5", "--out", str(trimmed)]) == 0
    assert list(AdapterFile.load(trimmed).vectors) == ["sks", "xyz"]


def test_an_analysis_of_two_that_mean_one_word_each_goes_on(make: Make, base: Base) -> None:
    """No prompt can mean both, so that what is kept of each is not defined; the rest is."""
    uses = [AdapterRef.load(str(make(name, token="sks", words=2))) for name in ("a", "bb")]
    (found,) = effects(uses, base, lambda _: None, steps=2).values()
    assert math.isfinite(found.agreement) and all(map(math.isfinite, found.heard))
    assert all(map(math.isnan, found.kept))
    assert not any(word.installed for word in base.words)
