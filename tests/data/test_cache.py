"""The cache finds what was put under the same description, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
from torch import nn

from dreamtune.data.cache import Cache, key_of, weights_digest, write
from dreamtune.errors import ConfigError
from dreamtune.storage import atomic, cache_dir


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("DREAMTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "dreamtune"


def test_put_and_get(tmp_path: Path) -> None:
    cache = Cache("latents", tmp_path)
    key = key_of({"picture": "abc"})
    assert cache.get(key) is None
    value = torch.randn(4, 3)
    cache.put(key, {"latent": value})
    entry = cache.get(key)
    assert entry is not None
    assert torch.equal(entry["latent"], value)
    assert cache.get(key_of({"picture": "abd"})) is None
    assert Cache("prompts", tmp_path).get(key) is None


def test_damaged_entry_is_absent_and_can_be_replaced(tmp_path: Path) -> None:
    cache, key = Cache("latents", tmp_path), key_of({})
    cache.put(key, {"latent": torch.ones(100)})
    whole = cache.path(key).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 50):
        cache.path(key).write_bytes(damaged)
        assert cache.get(key) is None
    cache.put(key, {"latent": torch.ones(100)})
    assert cache.path(key).read_bytes() == whole


def test_unwritable_cache_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="DREAMTUNE_CACHE"):
        Cache("latents", tmp_path / "file").put(key_of({}), {"x": torch.ones(1)})


def test_digest_sees_every_weight_name_and_type() -> None:
    def make() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(3, 4)

    digest = weights_digest(make())
    assert weights_digest(make()) == digest
    changed = make()
    with torch.no_grad():
        changed.weight[3, 2] += 1e-6
    assert weights_digest(changed) != digest
    assert weights_digest(make().half()) != digest
    assert weights_digest(make().to(torch.bfloat16)) != weights_digest(make().half())
    assert weights_digest(nn.Sequential(make())) != digest


def test_digest_is_kept_until_the_weights_change() -> None:
    linear = nn.Linear(3, 4)
    layer = nn.Sequential(linear, nn.BatchNorm1d(4))
    with patch("dreamtune.data.cache._digest", side_effect=["first", "second", "third", "fourth", "fifth"]):
        assert [weights_digest(layer) for _ in range(3)] == ["first"] * 3
        with torch.no_grad():
            linear.weight.add_(1)
        assert [weights_digest(layer) for _ in range(2)] == ["second"] * 2
        linear.weight = nn.Parameter(torch.ones(4, 3))
        assert weights_digest(layer) == "third"
        layer.train()(torch.ones(2, 3))  # moves the buffers
        assert weights_digest(layer) == "fourth"
        layer.load_state_dict(layer.state_dict())
        assert weights_digest(layer) == "fifth"


def test_atomic_leaves_nothing_behind_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("links", [True, False])
def test_atomic_replaces_nothing_if_it_must_not(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError("no hard links here")))
    target = tmp_path / "file"
    with atomic(target, replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), atomic(target, replace=False) as temporary:
        temporary.write_text("second")
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


WRITER = """
import sys
from pathlib import Path
from tests.data.test_cache import write_and_read
print("ready", flush=True)
write_and_read(Path(sys.argv[1]))
"""


def write_and_read(root: Path) -> None:
    """Put the same four entries again and again, as another process does, and see whole ones only."""
    cache = Cache("latents", root)
    for _ in range(25):
        for number in range(4):
            key = key_of({"n": number})
            cache.put(key, {"latent": torch.full((4096,), float(number))})
            entry = cache.get(key)
            assert entry is not None, "half an entry was seen"
            assert bool((entry["latent"] == number).all())


def test_two_processes_share_it(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    write_and_read(tmp_path)
    _, errors = other.communicate()
    assert other.returncode == 0, errors
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4


def test_a_folder_that_is_cleared_while_it_is_written_to(tmp_path: Path) -> None:
    calls: list[Path] = []

    def fill(temporary: Path) -> None:
        temporary.write_text("whole")
        calls.append(temporary)
        if len(calls) < 3:
            shutil.rmtree(tmp_path / "prior")

    write(tmp_path / "prior" / "a.png", fill)
    assert (tmp_path / "prior" / "a.png").read_text() == "whole"
    assert len(calls) == 3
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "prior" / "b.png", lambda temporary: shutil.rmtree(tmp_path / "prior"))
