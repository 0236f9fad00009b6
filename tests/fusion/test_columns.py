"""The book of directions: everybody has their own, and adapters on them add up without a conflict."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.methods.orthogonal import basis_rows
from dreamtune.errors import ConfigError
from dreamtune.fusion import Columns, FusionOptions, WeightedAdapter, fuse_layers
from dreamtune.pipelines.cli.app import main
from tests.adapters.nets import TARGETS, disturb, frozen_net


@pytest.fixture
def book(tmp_path: Path) -> Columns:
    return Columns(tmp_path / "data" / "columns.json")


def test_each_concept_has_the_next_free_block(book: Columns) -> None:
    assert [book.reserve("pocket", name, "spectral", 8).offset for name in "abc"] == [0, 1, 2]
    book.free("pocket", "b")
    assert book.reserve("pocket", "d", "spectral", 16).columns == range(32, 48)  # 16 wide: not in the gap of 8
    assert book.reserve("pocket", "e", "spectral", 4).columns == range(8, 12)
    assert book.reserve("pocket", "a", "orthogonal", 8).offset == 0
    assert book.reserve("other", "a", "spectral", 8).offset == 0
    assert [block.concept for block in book.blocks("pocket")] == ["a", "a", "e", "c", "d"]


def test_overlaps_are_refused(book: Columns) -> None:
    book.reserve("pocket", "a", "spectral", 8, 1)
    with pytest.raises(ConfigError, match="directions 12 to 15 of pocket overlap 8 to 15 of a:"):
        book.reserve("pocket", "b", "spectral", 4, 3)
    with pytest.raises(ConfigError, match="a already has spectral block 1 of pocket"):
        book.reserve("pocket", "a", "spectral", 8)
    assert book.reserve("pocket", "b", "spectral", 4, 4).columns == range(16, 20)


def test_nobody_gets_what_another_got_at_the_same_time(book: Columns) -> None:
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda name: Columns(book.path).reserve("b", str(name), "spectral", 4), range(24)))
    assert sorted(block.offset for block in blocks) == list(range(24))


def test_bad_input(book: Columns) -> None:
    for bad, message in (
        (("", "a", "spectral", 8), "set both names"),
        (("b", "a", "rows", 8), "kind = 'rows' must be one of spectral, orthogonal"),
        (("b", "a", "spectral", 0), "rank = 0"),
        (("b", "a", "spectral", 8, -1), "offset = -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            book.reserve(*bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="z has no block of b"):
        book.free("b", "z")
    book.path.parent.mkdir(exist_ok=True)
    row = {"base": "b", "concept": "a", "kind": "spectral", "offset": 0, "rank": 8}
    for content in ("{", "[1]", *(json.dumps([row | bad]) for bad in ({"offset": "0"}, {"rank": 0}, {"kind": "rows"}))):
        book.path.write_text(content)
        with pytest.raises(ConfigError, match="repair it, or remove it"):
            book.blocks()
        with pytest.raises(ConfigError, match="repair it, or remove it"):
            book.reserve("b", "c", "spectral", 8)
        assert book.path.read_text() == content


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DREAMTUNE_DATA", str(tmp_path))
    assert main(["columns", "reserve", "sks"]) == 0
    assert "--method spectral-a --rank 8 --set method_options.column_offset=0" in capsys.readouterr().out
    assert main(["columns", "reserve", "xyz", "--offset", "0"]) == 2
    assert "of sks: leave the offset out" in capsys.readouterr().err
    assert main(["columns", "reserve", "sks", "--kind", "orthogonal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "orthogonal"
    assert main(["columns", "list"]) == 0
    assert capsys.readouterr().out.count("sks") == 2
    assert main(["columns", "free", "sks"]) == 0
    assert main(["columns", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"blocks": []}


@pytest.mark.parametrize("size", [7, 64, 320])
def test_the_basis_is_orthogonal(size: int) -> None:
    basis = basis_rows(size, 0, size)
    torch.testing.assert_close(basis @ basis.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(basis_rows(size, 3, 5), basis[3:5])


OWN = {"spectral-a": "column_offset", "spectral-r": "column_offset", "orthogonal": "slot"}


@pytest.mark.parametrize("method", OWN)
def test_adapters_on_their_own_blocks_are_exactly_their_sum(method: str) -> None:
    net, files = frozen_net(torch.float32), []
    for index in range(2):
        options = {OWN[method]: index, "rank": 2, "alpha": 2.0}
        with attach(net, METHODS[method].config_class(**options), TARGETS) as attached:
            for _, layer, adapter in attached.layers():
                disturb(adapter, layer.base_weight, index)
            about = {"base": "b", "token": f"t{index}", "class_word": "dog", "training": {}}
            files.append(AdapterFile.from_attached(attached, **about))
    weights = files[0].weights({"unet": net})
    ingredients = [WeightedAdapter(file.token, file) for file in files]
    for path, fused in fuse_layers(ingredients, FusionOptions("sum"), weights):
        one, other = (file.adapters()[path] for file in files)
        expected = one.delta_weight(weights[path]) + other.delta_weight(weights[path])
        torch.testing.assert_close(fused.dense(), expected.detach(), rtol=0, atol=1e-6)
        if method == "orthogonal":  # neither reads what the other reads
            crossed = one.delta_weight(weights[path]) @ other.get_buffer("down").T
            torch.testing.assert_close(crossed, torch.zeros_like(crossed), rtol=0, atol=1e-6)
