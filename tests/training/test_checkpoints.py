"""A checkpoint is complete or absent; what was complete stays until something newer is."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamtune.errors import TrainingError
from dreamtune.training import checkpoints, rng
from dreamtune.training.archive import read_tree, write_tree


def save(folder: Path, step: int, keep: int = 2, **more: Any) -> Path:
    state = {"adapter": {"w": torch.full((3,), float(step))}, "progress": {"position": step}}
    return checkpoints.save(folder, step, state, identity={"base": "abc"}, keep=keep, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tree_comes_back_equal_in_value_and_type(tmp_path: Path) -> None:
    tree = {
        "tensors": [torch.randn(2, 3), torch.tensor(4, dtype=torch.int64), torch.zeros(0), torch.randn(2).bfloat16()],
        3: ("integer key", None, True, 1e-300, 0.1 + 0.2, 2**63, -math.inf),
        "array": np.arange(5, dtype=np.uint32),
        "nested": {"empty": {}, "list": [], "tuple": ()},
    }
    write_tree(tmp_path, "tree", tree)
    again = read_tree(tmp_path, "tree")
    assert list(again) == list(tree)
    for old, new in zip(tree["tensors"], again["tensors"], strict=True):
        assert torch.equal(old, new)
        assert old.dtype == new.dtype
    assert again[3] == tree[3]
    assert isinstance(again[3], tuple)
    assert again["array"].dtype == np.uint32
    assert np.array_equal(again["array"], tree["array"])
    assert again["nested"] == tree["nested"]


def test_shared_storage_and_views_can_be_stored(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    write_tree(tmp_path, "tree", {"a": weight, "b": weight, "c": weight.t()[1:]})
    again = read_tree(tmp_path, "tree")
    assert torch.equal(again["b"], weight)
    assert torch.equal(again["c"], weight.t()[1:])


def test_unknown_things_are_refused_not_pickled(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot store a Path|cannot store a PosixPath"):
        write_tree(tmp_path, "tree", {"x": tmp_path})


def test_random_state_round_trip(tmp_path: Path) -> None:
    torch.randn(3)
    random.gauss(0, 1)  # leaves a second value waiting
    write_tree(tmp_path, "random", rng.get_state())
    expected = (random.gauss(0, 1), float(np.random.rand()), torch.randn(2).tolist())
    rng.set_state(read_tree(tmp_path, "random"))
    assert (random.gauss(0, 1), float(np.random.rand()), torch.randn(2).tolist()) == expected


def test_seeding_is_undone() -> None:
    before = rng.get_state()
    with rng.seeded(5):
        first = torch.randn(2).tolist(), random.random(), float(np.random.rand())
    with rng.seeded(5):
        assert (torch.randn(2).tolist(), random.random(), float(np.random.rand())) == first
    after = rng.get_state()
    assert before["python"] == after["python"]
    assert torch.equal(before["torch"], after["torch"])


def test_save_and_load_latest(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path / "none") is None
    save(tmp_path, 10)
    save(tmp_path, 20)
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.identity) == (20, {"base": "abc"})
    state = checkpoint.load()
    assert state["progress"] == {"position": 20}
    assert state["adapter"]["w"].tolist() == [20.0] * 3


def test_extra_files_are_in_the_manifest(tmp_path: Path) -> None:
    path = save(tmp_path, 10, add_files=lambda folder: (folder / "note").write_text("x"))
    assert "note" in json.loads((path / "manifest.json").read_text())["files"]
    (path / "note").write_text("y")
    assert checkpoints.latest(tmp_path) is None


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-000030", "step-000040"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing file", "no manifest", "bad manifest"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    path = save(tmp_path, 20)
    tensors, manifest = path / "adapter.tensors", path / "manifest.json"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(bytes(data))
    elif damage == "missing file":
        tensors.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"format": 1')
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 10


def test_rotation_never_counts_an_incomplete_one(tmp_path: Path) -> None:
    save(tmp_path, 10)
    for step in (20, 30):
        (save(tmp_path, step, keep=3) / "manifest.json").unlink()
    checkpoints.rotate(tmp_path, keep=1)
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 10


def test_damaged_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (save(tmp_path, 10) / "manifest.json").unlink()
    save(tmp_path, 10)
    assert checkpoints.latest(tmp_path) is not None
    assert names(tmp_path) == ["step-000010"]


def test_failed_write_leaves_the_old_ones(tmp_path: Path) -> None:
    save(tmp_path, 10)

    def disk_full(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"step-000020: No space left on device; earlier ones are intact"):
        save(tmp_path, 20, keep=1, add_files=disk_full)
    assert names(tmp_path) == ["step-000010"]
    assert checkpoints.latest(tmp_path) is not None


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".step-000005.77.tmp").mkdir(parents=True)
    save(tmp_path, 10)
    assert names(tmp_path) == ["step-000010"]
