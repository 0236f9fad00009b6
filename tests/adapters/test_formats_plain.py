"""Any method as plain LoRA: exact where there are factors, else the best of its rank, with the energy that it keeps."""

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile
from dreamtune.adapters.formats import plain_lora
from dreamtune.errors import AdapterFileError, ConfigError
from tests.adapters.nets import attached_to, frozen_net

NET = frozen_net(torch.float32)


def file_of(method: str) -> AdapterFile:
    with attached_to(NET, method) as attached:
        return AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})


def changes(file: AdapterFile) -> dict[str, Tensor]:
    weights = file.weights({"unet": NET})
    return {path: adapter.delta_weight(weights[path]).detach() for path, adapter in file.adapters().items()}


def has_factors(method: str) -> bool:
    return next(iter(file_of(method).adapters().values())).low_rank(torch.empty(5, 7, device="meta")) is not None


EXACT = [method for method in METHODS if has_factors(method)]
FULL = [method for method in METHODS if method not in EXACT]


@pytest.mark.parametrize("method", EXACT)
def test_small_factors_are_kept_exactly(method: str) -> None:
    file = file_of(method)
    plain = plain_lora(file)
    assert plain.file.method == "lora"
    assert set(plain.energy.values()) == {1.0}
    for path, change in changes(plain.file).items():
        torch.testing.assert_close(change, changes(file)[path], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", FULL)
def test_full_changes_need_a_rank(method: str) -> None:
    with pytest.raises(ConfigError, match=f"{method} has no small exact factors.*set the rank"):
        plain_lora(file_of(method))


@pytest.mark.parametrize("method", METHODS)
def test_rank_one_is_the_best_of_its_rank(method: str) -> None:
    file = file_of(method)
    plain = plain_lora(file, 1, file.weights({"unet": NET}))
    assert {adapter.config.rank for adapter in plain.file.adapters().values()} == {1}
    for path, change in changes(plain.file).items():
        whole = changes(file)[path]
        values = torch.linalg.svdvals(whole)
        torch.testing.assert_close((whole - change).norm(), values[1:].norm(), rtol=1e-4, atol=1e-5)
        assert plain.energy[path] == pytest.approx(float(values[0] ** 2 / values.square().sum()), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_whole_rank_is_exact(method: str) -> None:
    file = file_of(method)
    plain = plain_lora(file, 100, file.weights({"unet": NET}))
    assert set(plain.energy.values()) == {1.0}
    for path, change in changes(plain.file).items():
        torch.testing.assert_close(change, changes(file)[path], rtol=1e-4, atol=1e-5)


def test_lora_stays_what_it_is() -> None:
    file = file_of("lora")
    assert plain_lora(file).file is file
    assert plain_lora(file, 2).file is file


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="dora depends on the base's weights: set the base"):
        plain_lora(file_of("dora"), 1)
    with pytest.raises(ConfigError, match="rank = 0 must be at least 1"):
        plain_lora(file_of("lora"), 0)
    assert plain_lora(file_of("loha"), 1).file.method == "lora"  # its change is its own, without the base


def test_nothing_changed_is_kept_whole() -> None:
    file = file_of("loha")
    zero = {name: tensor * (not name.endswith("up2")) for name, tensor in file.tensors.items()}
    plain = plain_lora(AdapterFile(**{**vars(file), "tensors": zero}), 1)
    assert set(plain.energy.values()) == {1.0}
    assert all(change.count_nonzero() == 0 for change in changes(plain.file).values())


def test_changes_beyond_what_numbers_hold_are_refused() -> None:
    """Finite factors can have a product that is not."""
    file = file_of("full")
    huge = {name: torch.full_like(tensor, 1e200, dtype=torch.float64) for name, tensor in file.tensors.items()}
    with pytest.raises(AdapterFileError, match="its change overflows"):
        plain_lora(AdapterFile(**{**vars(file), "tensors": huge}), 1)


def test_kronecker_products_are_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may be a large ΔW."""
    file = file_of("lokr")
    dense = plain_lora(file, 2)
    expected = changes(dense.file)
    monkeypatch.setattr(METHODS["lokr"], "delta_weight", lambda *_: pytest.fail("formed"))
    plain = plain_lora(file, 2)
    assert plain.energy == dense.energy
    for path, change in changes(plain.file).items():
        torch.testing.assert_close(change, expected[path])
        values = torch.linalg.svdvals(file.adapters()[path].change().detach())  # pyright: ignore[reportCallIssue]
        assert plain.energy[path] == pytest.approx(float(values[:2].square().sum() / values.square().sum()), abs=1e-6)
