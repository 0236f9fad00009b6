"""`dreamtune cache` shows what is kept, and removes it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dreamtune.data.cache import Cache, key_of
from dreamtune.data.cache_eviction import KINDS, entries
from dreamtune.errors import ConfigError
from dreamtune.pipelines.cache import clear_cache, list_cache
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig

DAY = 86400


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three latents, 0, 10 and 20 days old, two prompts and two sets of class pictures."""
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    for kind, count in (("latents", 3), ("prompts", 2)):
        for number in range(count):
            key = key_of({"n": number})
            Cache(kind).put(key, {"x": torch.zeros(1000)})
            then = time.time() - 10 * DAY * number
            os.utime(Cache(kind).path(key), (then, then))
    for number in range(2):
        folder = tmp_path / "cache" / "prior" / (str(number) * 32)
        folder.mkdir(parents=True)
        for name in ("00000.png", "00000.safetensors", "prior.json"):
            (folder / name).write_bytes(b"x" * 100)
    return tmp_path / "cache"


def test_list(filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "3GB")
    use = list_cache()
    assert [(kind.kind, kind.entries) for kind in use.kinds] == [("latents", 3), ("prior", 2), ("prompts", 2)]
    latents = use.kinds[0]
    assert (round(latents.oldest), round(latents.newest)) == (20, 0)
    assert use.kinds[1].size == 600
    assert use.size == sum(path.stat().st_size for path in filled.rglob("*") if path.is_file())
    assert main(["cache", "list"]) == 0
    text = capsys.readouterr().out
    assert f"{filled}  (" in text
    assert "of at most 3.0 GiB" in text
    assert main(["cache", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"][2]["entries"] == 2


def test_clear(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--kind", "latents", "--older-than", "15d"]) == 0
    assert capsys.readouterr().out.startswith("1 entries removed, 4.0 KiB")
    assert clear_cache("prior").entries == 2
    assert clear_cache(older_than="9d").entries == 2
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 2
    assert [path for path in filled.rglob("*") if path.is_file()] == []
    assert list_cache().kinds == ()


def test_clear_leaves_what_is_not_dreamtunes(filled: Path) -> None:
    foreign = [
        filled / name for name in ("project/.git/config", ".env", "latents/.env", "prior/photo.png", "svd/a.bin")
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    assert {kind.kind for kind in list_cache().kinds} == {"latents", "prior", "prompts"}
    with pytest.raises(ConfigError, match="no 'project' entries in the cache"):
        clear_cache("project")
    assert clear_cache().entries == 7
    assert sorted(path for path in filled.rglob("*") if path.is_file()) == sorted(foreign)


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--help"]) == 0
    text = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in text] == []


def test_bad_input(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no 'latent' entries in the cache .*; it has latents, prior, prompts"):
        clear_cache("latent")
    with pytest.raises(ConfigError, match="30d"):
        clear_cache(older_than="long")
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "much")
    assert main(["cache", "list"]) == 2
    assert len(list(filled.iterdir())) == 3


def test_a_cache_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "none"))
    assert list_cache().kinds == ()
    assert clear_cache().entries == 0
    assert not (tmp_path / "none").exists()


def test_training_keeps_within_the_limit_and_needs_nothing_that_went(
    tmp_path: Path, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same adapter with a cache that is kept, evicted in between, or cleared."""
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    config = TrainConfig(
        images=photos, class_word="dog", base=str(tiny), steps=2, batch_size=2, prior_images=2, sampling_steps=2
    )

    def adapter(name: str) -> bytes:
        return train(config, tmp_path / name, on_progress=lambda progress: None).adapter.read_bytes()

    first = adapter("a")
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(path for entry in entries() for path in entry.files) == sorted(files), "all of it is known"
    assert {kind.kind for kind in list_cache().kinds} >= {"latents", "prompts", "prior"}
    for path in (tmp_path / "cache").rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "0")
    assert adapter("b") == first
    assert list_cache().size > 0, "what this process uses stays"
    clear_cache()
    assert adapter("c") == first


def test_a_limit_that_is_none_is_told_before_anything_else(
    tmp_path: Path, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "much")
    config = TrainConfig(images=photos, class_word="dog", base=str(tiny), steps=1)
    with pytest.raises(ConfigError, match="DREAMTUNE_CACHE_LIMIT"):
        train(config, tmp_path / "run", on_progress=lambda progress: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_trainings_at_once_share_an_empty_cache(tmp_path: Path, tiny: Path, photos: Path) -> None:
    """Both compute, read and evict the same entries, and give the adapter that one alone gives."""

    def start(name: str, cache: str) -> subprocess.Popen[bytes]:
        options = ["--steps=3", "--set=batch_size=2", "--set=prior_images=8", "--set=sampling_steps=4", "--device=cpu"]
        command = [sys.executable, "-m", "dreamtune.pipelines.cli", "train", str(photos), "--class=dog", *options]
        environment = {**os.environ, "DREAMTUNE_CACHE": str(tmp_path / cache), "DREAMTUNE_CACHE_LIMIT": "0"}
        return subprocess.Popen([*command, f"--base={tiny}", f"--out={tmp_path / name}"], env=environment)

    for process in [start("a", "shared"), start("b", "shared"), start("alone", "own")]:
        assert process.wait() == 0
    adapters = {(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("a", "b", "alone")}
    assert len(adapters) == 1
    files = [[path.name for path in (tmp_path / cache).rglob("*") if path.is_file()] for cache in ("shared", "own")]
    assert sorted(files[0]) == sorted(files[1]), "nothing is left over, nothing is there twice"
