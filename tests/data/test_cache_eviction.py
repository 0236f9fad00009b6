"""The cache keeps within its limit: the longest unused goes, what is in use stays."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dreamtune.adapters.svd import SvdStore
from dreamtune.data import cache_eviction
from dreamtune.data.cache import Cache, key_of
from dreamtune.errors import ConfigError
from tests.house.tree import ROOT

SIZE = 4096
"""Bytes of tensor in an entry; the file is a little larger."""


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache of a process that started an hour from now, so that nothing counts as used by it."""
    monkeypatch.setattr(cache_eviction, "HOUR", -3600.0)
    monkeypatch.setattr(cache_eviction, "_STARTED", time.time() + 3600)
    return Cache("latents", tmp_path)


def put(cache: Cache, number: int, hours_ago: float) -> Path:
    key = key_of({"n": number})
    cache.put(key, {"latent": torch.full((SIZE // 4,), float(number))})
    path = cache.path(key)
    age(path, hours_ago)
    return path


def age(path: Path, hours_ago: float) -> None:
    then = time.time() - 3600 * hours_ago
    os.utime(path, (then, then))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", cache_eviction.LIMIT),
        ("1000", 1000),
        ("2K", 2048),
        ("1.5 MB", 3 << 19),
        ("20gib", 20 << 30),
        ("1T", 1 << 40),
        ("0", 0),
    ],
)
def test_limit(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", text)
    assert cache_eviction.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "5X", "1e3"])
def test_a_limit_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", text)
    with pytest.raises(ConfigError, match="500MB"):
        cache_eviction.limit()


def test_the_longest_unused_goes(idle: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [put(idle, number, hours_ago=10 - number) for number in range(5)]
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "13000")  # three entries and a little
    assert idle.get(key_of({"n": 0})) is not None, "which is a use"
    freed = cache_eviction.make_room(tmp_path)
    assert [path.exists() for path in paths] == [True, False, False, True, True]
    assert 2 * SIZE < freed < 3 * SIZE
    assert cache_eviction.make_room(tmp_path) == 0


def test_what_is_in_use_stays_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "0")
    cache = Cache("latents", tmp_path)
    used, old, recent = (put(cache, number, hours) for number, hours in enumerate((0, 5, 0.5)))
    assert cache.get(key_of({"n": 0})) is not None
    cache.make_room()
    assert used.exists(), "by this process"
    assert recent.exists(), "perhaps by another"
    assert not old.exists()
    monkeypatch.setattr(cache_eviction, "_STARTED", time.time() - 30 * 86400)
    age(used, 6 * 24)
    cache.make_room()
    assert used.exists(), "by this process, which runs for a month"
    age(used, 8 * 24)
    cache.make_room()
    assert not used.exists(), "but not for ever"


def test_a_folder_of_class_pictures_is_one_entry(idle: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prior" / ("a" * 32)
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number:05d}.png").write_bytes(b"x" * 1000)
        age(folder / f"{number:05d}.png", 5 + number)
    put(idle, 0, hours_ago=6)
    found = {entry.kind: entry for entry in cache_eviction.entries(tmp_path)}
    assert set(found) == {"prior", "latents"}
    assert found["prior"].size == 3000
    assert found["prior"].used == pytest.approx(time.time() - 5 * 3600, abs=60)
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "3500")
    cache_eviction.make_room(tmp_path)
    assert len(list(folder.iterdir())) == 3, "whose youngest file counts"
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "0")
    assert cache_eviction.make_room(tmp_path) == 3000
    assert list((tmp_path / "prior").iterdir()) == []


def test_what_a_killed_process_left_goes_after_a_day(idle: Cache, tmp_path: Path) -> None:
    path = put(idle, 0, 0)
    left, fresh = (path.parent / f".{path.name}.{letter * 8}.tmp" for letter in "ab")
    left.write_bytes(b"half")
    age(left, 25)
    fresh.write_bytes(b"half")
    cache_eviction.make_room(tmp_path)
    assert (left.exists(), fresh.exists(), path.exists()) == (False, True, True)


FOREIGN = (
    "README.md",
    ".env",
    "project/.git/config",
    "project/.env",
    "project/main.py",
    "hub/models--a--b/blobs/" + "a" * 64,
    "hub/ab/" + "ab" * 32 + ".safetensors",
    "photos/00000.png",
    "latents/notes.txt",
    "latents/.env",
    "latents/ab/picture.safetensors",
    "latents/ab/." + "ab" * 32 + ".safetensors.swp",
    "latents/" + "ab" * 32 + ".safetensors",
    "prompts/ab/cd/" + "ab" * 32 + ".safetensors",
    "prior/00000.png",
    "prior/.git/00000.png",
    "prior/" + "a" * 32 + "/my favourite.png",
    "prior/" + "a" * 32 + "/.DS_Store",
    "prior/" + "a" * 32 + "/edited/00000.png",
    "svd/my.safetensors",
    "svd/.gitignore",
    "recordings/voice.wav",
)
"""What a user may keep below the folder."""


@pytest.fixture
def foreign(tmp_path: Path) -> list[Path]:
    """Files that are not dreamtune's, 20 days old, in the cache's folder and those of its kinds."""
    paths = [tmp_path / name for name in FOREIGN]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10_000)
        age(path, 20 * 24)
    return paths


def test_what_is_not_dreamtunes_stays(
    idle: Cache, foreign: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = put(idle, 0, hours_ago=5)
    left = own.parent / f".{own.name}.{'a' * 8}.tmp"
    pictures = [tmp_path / "prior" / ("a" * 32) / name for name in ("00000.png", "00000.safetensors", "prior.json")]
    for path in (left, *pictures):
        path.write_bytes(b"x" * 10)
        age(path, 48)
    assert {entry.path for entry in cache_eviction.entries(tmp_path)} == {own, pictures[0].parent}
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "0")
    size = own.stat().st_size
    assert cache_eviction.make_room(tmp_path) == size + 40
    assert [path for path in (own, left, *pictures) if path.exists()] == []
    assert [path for path in foreign if not path.exists()] == []
    assert cache_eviction.entries(tmp_path) == []


def test_links_are_not_followed(idle: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(Cache("latents", tmp_path / "other"), 0, hours_ago=5)
    root = tmp_path / "cache"
    (root / "prompts").mkdir(parents=True)
    (root / "latents").symlink_to(path.parents[1])
    (root / "prompts" / path.parent.name).symlink_to(path.parent)
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "0")
    assert cache_eviction.entries(root) == []
    assert cache_eviction.make_room(root) == 0
    assert path.exists()


def test_every_kind_that_is_written_is_known(tmp_path: Path) -> None:
    source = "".join(
        path.read_text("utf-8") for folder in ("dreamtune", "pipelines") for path in (ROOT / folder).rglob("*.py")
    )
    assert set(re.findall(r'\bCache\("(\w+)"', source)) | {"prior", "svd"} == set(cache_eviction.KINDS)
    svd = SvdStore(tmp_path / "svd")
    svd.full(torch.eye(3))
    svd.top(torch.eye(3), 2)
    for kind in ("latents", "prompts", "recordings"):
        put(Cache(kind, tmp_path), 0, hours_ago=0)
    found = [file for entry in cache_eviction.entries(tmp_path) for file in entry.files]
    assert sorted(found) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(found) == 5


def test_an_empty_or_missing_cache(tmp_path: Path) -> None:
    assert cache_eviction.entries(tmp_path / "none") == []
    assert cache_eviction.make_room(tmp_path / "none") == 0


CLEANER = """
import sys, time
from pathlib import Path
from dreamtune.data import cache_eviction
cache_eviction.HOUR, cache_eviction._STARTED = -3600.0, time.time() + 3600
print("ready", flush=True)
removed = 0
while not Path(sys.argv[1], "stop").exists():
    removed += cache_eviction.make_room(Path(sys.argv[1], "cache"))
print(removed)
"""


def test_two_processes_one_of_which_clears(tmp_path: Path) -> None:
    """Entries vanish under the reader, who sees whole ones or none."""
    cache = Cache("latents", tmp_path / "cache")
    environment = {**os.environ, "DREAMTUNE_CACHE_LIMIT": "0"}
    command = [sys.executable, "-c", CLEANER, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            found = missing = 0
            end = time.monotonic() + 60
            while (found < 20 or missing < 5) and time.monotonic() < end:
                key = key_of({"n": found % 3})
                cache.put(key, {"latent": torch.full((SIZE,), float(found))})
                for _ in range(3):
                    entry = cache.get(key)
                    found += entry is not None
                    missing += entry is None
                    assert entry is None or bool((entry["latent"] == entry["latent"][0]).all())
        finally:
            (tmp_path / "stop").touch()
        assert int(other.stdout.read()) > 0
    assert other.returncode == 0
    assert found >= 20
    assert missing >= 5
