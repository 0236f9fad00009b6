"""Singular vectors: right to the last digit of fp32, the same from the disk, and computed anew when the disk fails."""

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamtune.adapters import svd as module
from dreamtune.adapters.svd import Svd, SvdStore
from dreamtune.errors import IncompatibleModelError


def matrix(out: int, width: int, decay: float = 0.0, seed: int = 0) -> Tensor:
    """A weight whose i-th singular value falls as i^-decay; 0 leaves a plain random one."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator, dtype=torch.float64)
    if decay:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        weight = u * torch.arange(1, len(s) + 1) ** -decay @ vh
    return weight.float()


def same(one: Svd, other: Svd) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("u", "s", "v"))


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which decompositions are computed from now on."""
    computed: list[str] = []
    for name in ("_full", "_truncated"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, f=original, n=name: (computed.append(n), f(*args))[1])
    return computed


@given(out=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_full_decomposition_multiplies_to_the_weight(tmp_path_factory: pytest.TempPathFactory, **shape: int) -> None:
    weight = matrix(shape["out"], shape["width"], seed=shape["seed"])
    svd = SvdStore(tmp_path_factory.mktemp("svd")).full(weight)
    assert svd.u.dtype == svd.s.dtype == svd.v.dtype == torch.float32
    torch.testing.assert_close(svd.u * svd.s @ svd.v.T, weight, rtol=0, atol=3e-6)
    for columns in (svd.u, svd.v):
        torch.testing.assert_close(columns.T @ columns, torch.eye(min(weight.shape)), rtol=0, atol=1e-6)
    assert (svd.s.diff() <= 0).all()
    assert (svd.u.gather(0, svd.u.abs().argmax(0, keepdim=True)) > 0).all()


def test_second_time_it_comes_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, store = matrix(30, 20), SvdStore(tmp_path)
    full, top = store.full(weight), store.top(weight, 3)
    computed = count_computed(monkeypatch)
    again = SvdStore(tmp_path)
    assert same(again.full(weight), full)
    assert same(again.top(weight, 3), top)
    assert same(again.top(weight.double(), 3), top)
    assert computed == []
    assert same(top, full.columns(0, 3))
    other = weight.clone()
    other[0, 0] += 1e-6
    assert not same(again.full(other), full)
    again.full(weight.T)
    assert computed == ["_full", "_full"]


def test_half_precision_weight_counts_as_the_values_it_has(tmp_path: Path) -> None:
    weight, store = matrix(9, 6).bfloat16(), SvdStore(tmp_path)
    assert same(store.full(weight), store.full(weight.float()))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("shape", [(320, 500), (500, 320)])
def test_truncated_columns_are_those_of_the_full_decomposition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    weight = matrix(*shape, decay=0.5)
    computed = count_computed(monkeypatch)
    top = SvdStore(tmp_path / "a").top(weight, 4)
    assert computed == ["_truncated"], "too few columns for the full decomposition"
    full = SvdStore(tmp_path / "b").full(weight)
    for name in ("u", "s", "v"):
        torch.testing.assert_close(getattr(top, name), getattr(full, name)[..., :4], rtol=0, atol=2e-7)


def test_what_ran_before_plays_no_part(tmp_path: Path) -> None:
    weight = matrix(320, 330, decay=0.5)
    cold, warm = SvdStore(tmp_path / "cold"), SvdStore(tmp_path / "warm")
    warm.full(weight)
    assert same(cold.top(weight, 4), warm.top(weight, 4))


def test_flat_spectrum_falls_back_to_the_full_decomposition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    orthogonal = torch.linalg.qr(torch.randn(320, 320, generator=generator, dtype=torch.float64)).Q
    weight = (orthogonal * torch.linspace(1.0, 0.999, 320)).float()
    computed, store = count_computed(monkeypatch), SvdStore(tmp_path)
    top = store.top(weight, 4)
    assert computed == ["_truncated", "_full"]
    assert same(top, store.full(weight).columns(0, 4))
    store.top(weight, 4)
    assert computed == ["_truncated", "_full"], "that it had to fall back is remembered"


def test_missed_direction_is_noticed() -> None:
    weight = matrix(40, 30, decay=0.5).double()
    _, s, vh = torch.linalg.svd(weight, full_matrices=False)
    assert module._is_complete(weight, s[:4], vh[:4].T)
    for kept in ([0, 1, 2, 4], [0, 2, 3], [1]):  # each column is exact, but a larger one is not among them
        assert not module._is_complete(weight, s[kept], vh[kept].T), kept


def test_start_that_cannot_see_the_largest_direction_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(320, 320, decay=0.5)
    expected = SvdStore(tmp_path / "a").full(weight).columns(0, 4)
    blind = torch.linalg.svd(weight.double()).Vh[0]
    randn = torch.randn

    def start(*shape: int, **options: object) -> Tensor:
        drawn = randn(*shape, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return drawn - torch.outer(blind, blind @ drawn) if shape[0] == 320 else drawn

    monkeypatch.setattr(torch, "randn", start)
    top = SvdStore(tmp_path / "b").top(weight, 4)
    torch.testing.assert_close(top.s, expected.s)
    torch.testing.assert_close(top.u, expected.u, rtol=0, atol=2e-7)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_damaged_file_is_computed_anew(tmp_path: Path, damage: str) -> None:
    weight, store = matrix(9, 6), SvdStore(tmp_path)
    expected = store.full(weight)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytes([*whole[:-1], whole[-1] ^ 1])
    path.write_bytes({"cut": whole[:-9], "flipped": flipped, "empty": b"", "foreign": b"PK\x03\x04" * 99}[damage])
    assert same(store.full(weight), expected)
    assert path.read_bytes() == whole


def test_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    weight, store = matrix(9, 6), SvdStore(tmp_path / "file")
    (tmp_path / "file").touch()
    assert same(store.full(weight), SvdStore(tmp_path / "folder").full(weight))
    assert store.top(weight, 2).s.shape == (2,)


def test_longest_unused_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [matrix(20, 20, seed=seed) for seed in range(4)]
    store = SvdStore(tmp_path)
    store.full(weights[0])
    (first,) = tmp_path.iterdir()
    size = first.stat().st_size
    store.full(weights[1])
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9 + (path != first)))
    abandoned = tmp_path / f".{first.name}.{'a' * 8}.tmp"
    foreign = [tmp_path / name for name in ("mine.safetensors", ".env", f"{first.name}.bak")]
    for path in (abandoned, *foreign):
        path.write_bytes(b"x" * (3 * size if path in foreign else 1))
        os.utime(path, (1, 1))
    store.full(weights[0])  # used now, so that the second is the oldest
    limited = SvdStore(tmp_path, limit=2 * size + size // 2)
    limited.full(weights[2])
    assert not abandoned.exists()
    computed = count_computed(monkeypatch)
    limited.full(weights[0])
    limited.full(weights[2])
    assert computed == []
    limited.full(weights[1])
    assert computed == ["_full"]
    assert all(path.exists() for path in foreign), "nothing that is not its own"
    own = [path for path in tmp_path.iterdir() if path not in foreign]
    assert sum(path.stat().st_size for path in own) <= limited.limit


def _use(folder: Path, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    store = SvdStore(folder, limit=20_000)  # so small that the processes remove each other's files
    barrier.wait(60)
    for seed in range(12):
        weight = matrix(20, 20, seed=seed % 5)
        svd = store.full(weight)
        assert torch.allclose(svd.u * svd.s @ svd.v.T, weight, atol=1e-5)


@pytest.mark.slow
def test_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_use, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_damaged_base_is_named(tmp_path: Path) -> None:
    weight = matrix(9, 6)
    weight[3, 3] = torch.nan
    with pytest.raises(IncompatibleModelError, match="NaN.*download the base model again"):
        SvdStore(tmp_path).top(weight, 2)
