"""What adapters on a tiny base are compared by does not depend on format, sign or size; what cannot be is said."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import dreamtune
from dreamtune.adapters import AdapterFile
from dreamtune.errors import AdapterFileError, ConfigError, IncompatibleModelError
from dreamtune.pipelines.export.run import export
from tests.tiny_models import tiny_folder

Make = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("beside_the_base")


def figures(report: dict[str, Any]) -> dict[str, list[Any]]:
    """Layer -> its lists of directions, its pairs and each adapter's figures, whatever the order of the layers."""
    return {layer["name"]: [layer["tsd"], layer["pairs"], layer["adapters"]] for layer in report["layers"]}


def alike(found: Any, wanted: Any) -> bool:
    """Equal but for rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(alike(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    return found == (pytest.approx(wanted, rel=1e-4, abs=1e-5) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_the_format_of_the_file_does_not_matter(make: Make, tiny: Path, tmp_path: Path, form: str) -> None:
    """Every figure of every layer; what the sizes of random changes decide may differ in the last of its digits."""
    ours, other = make("ours", seed=1), make("other", seed=2)
    copy = tmp_path / ("copy" if form == "peft" else "copy.safetensors")
    export(ours, copy, form)
    settings: dict[str, Any] = {"interference": False, "base": str(tiny)}
    wanted = dreamtune.analyze([ours, other], **settings).to_dict()
    found = dreamtune.analyze([copy, other], **settings).to_dict()
    assert figures(found).keys() == figures(wanted).keys()
    for name, layer in figures(wanted).items():
        assert alike(figures(found)[name], layer), name


def test_sign_and_size_do_not_matter(make: Make) -> None:
    """Of all that is compared only the cosine changes its sign, and the norms their ratio."""
    one, other = make("one", seed=1), make("two", seed=2)
    file = AdapterFile.load(one)
    tensors = {name: -3 * tensor if name.endswith(".up") else tensor for name, tensor in file.tensors.items()}
    turned = one.parent / "turned.safetensors"
    replace(file, tensors=tensors).save(turned)
    wanted, found = (dreamtune.analyze([it, other], interference=False).to_dict()["layers"] for it in (one, turned))
    for layer, same in zip(wanted, found, strict=True):
        assert same["tsd"] == layer["tsd"]
        (pair,), (turned_pair,) = layer["pairs"], same["pairs"]
        expected = pair | {"cosine": -pair["cosine"], "norm_ratio": 3 * pair["norm_ratio"]}
        conflict = "excess_sign_conflict"
        assert turned_pair[conflict] == pytest.approx(-pair[conflict], abs=1e-3), "what fought now agrees"
        assert alike(turned_pair | {conflict: 0}, expected | {conflict: 0})


def test_an_adapter_that_changes_nothing_is_not_defined_rather_than_unlike(make: Make, tmp_path: Path) -> None:
    report = dreamtune.analyze([make("zero", zero=True), make("one")], tmp_path / "report", steps=1).to_dict()
    (pair,) = report["pairs"]
    assert (pair["overlap"], pair["cosine"], pair["z"]) == (None, None, None)
    assert report["interference"]["crosstalk"][0] == [None, None]
    assert "zero changes nothing" in " ".join(report["advice"])
    assert "is undefined because one of them changes nothing" in " ".join(report["advice"])


def test_more_directions_than_a_layer_has(make: Make, tmp_path: Path) -> None:
    report = dreamtune.analyze([make("a"), make("b", seed=1)], tmp_path / "r", interference=False, top_k=64).to_dict()
    assert {len(layer["tsd"][0]) for layer in report["layers"]} == {32, 64}
    assert all(pair["k"] in (32, 64) for layer in report["layers"] for pair in layer["pairs"])


def test_adapters_that_change_nothing_at_all_still_get_their_report(make: Make, tmp_path: Path) -> None:
    zeros = [make("zero", zero=True), make("nil", zero=True)]
    report = dreamtune.analyze(zeros, tmp_path / "report", steps=1, timestep_profile=True).to_dict()
    layer = report["layers"][0]
    assert layer["tsd"] == [[], []]
    assert layer["adapters"][0]["projections"] is layer["adapters"][0]["health"]["intruders"] is None
    undefined = {name for name, value in layer["pairs"][0].items() if value is None}
    assert {"shared", "chance", "rbo", "spearman", "left", "right", "cosine", "excess_sign_conflict"} <= undefined
    assert report["free_columns"] == []
    page = (tmp_path / "report" / "report.html").read_text()
    assert "is undefined because one of them changes nothing" in page and "nan" not in page.split("<figure>")[0]


def test_longer_lists_than_the_rank(make: Make) -> None:
    """A change of rank 2 has a part in many directions of the weight; its own subspaces have two."""
    report = dreamtune.analyze([make("a"), make("b", seed=1)], interference=False, top_k=16).to_dict()
    for layer in report["layers"]:
        assert [seen["health"]["rank"] for seen in layer["adapters"]] == [2, 2]
        assert [len(indices) for indices in layer["tsd"]] == [16, 16]
        (pair,) = layer["pairs"]
        assert 0 <= pair["left"] <= 1 and 0 <= pair["right"] <= 1
        assert pair["left_chance"] == 2 / layer["shape"][0]


def refused(message: str, *files: Path, **settings: Any) -> None:
    out = files[0].parent / "report"
    with pytest.raises((ConfigError, AdapterFileError, IncompatibleModelError), match=re.escape(message)):
        dreamtune.analyze(files, out, **settings)
    assert not out.exists()


def test_bases_of_one_shape_and_other_weights(make: Make, tiny: Path, tmp_path: Path) -> None:
    """Directions of one weight say nothing of another's."""
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    (weights,) = (other / "unet").glob("*.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    one, elsewhere = make("one"), make("elsewhere", base=other)
    refused("trained on different bases (other, tiny)", one, elsewhere)
    refused(f"{elsewhere}: 32 of 32 adapted layers have other weights", one, elsewhere, base=str(tiny))
    report = dreamtune.analyze([one, elsewhere], base=str(tiny), any_base=True, interference=False)
    assert len(report.layers) == 32


@pytest.mark.parametrize("method", ["lora", "loha"])
def test_changes_beyond_what_numbers_hold(make: Make, method: str) -> None:
    """Every number of the file is finite, but their product is not."""
    path = make("huge", method)
    file = AdapterFile.load(path)
    replace(file, tensors={name: tensor * 1e30 for name, tensor in file.tensors.items()}).save(path)
    refused(f"{path}: layer {next(iter(file.layers))}: its change overflows: train it again", path, interference=False)


def test_bad_input_is_refused_before_anything_is_written(make: Make, tiny: Path, tmp_path: Path) -> None:
    one, other = make("one"), make("two", seed=1)
    refused("have no layer in common", make("kv", targets=r"attn2\.to_k"), make("v", targets=r"attn2\.to_v"))
    elsewhere = tiny_folder(tmp_path / "wider", width=48)
    refused("different bases", one, make("wider", base=elsewhere))
    refused("different bases", one, make("wide", base=elsewhere), base=str(tiny))
    refused("is not a valid regular expression", one, other, layers="(")
    refused("none of the 32 layers", one, other, layers="nowhere")
    refused("none of the 32 layers", one, other, blocks=["text"])
    refused("1 subjects for 2 adapters", one, other, subjects=["rex"])
    refused("top_k", one, other, top_k=0)
    refused("at strength 1", Path(f"{one}:0.5"))
    refused("at strength 1", Path(f"{one}:1,up.1=0.5"))
    export(one, tmp_path / "k.safetensors", "kohya")
    broken = load_file(tmp_path / "k.safetensors")
    broken[next(key for key in broken if "lora_up" in key)][0, 0] = float("nan")
    save_file(broken, tmp_path / "nan.safetensors")
    refused("NaN", tmp_path / "nan.safetensors", base=str(tiny))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        dreamtune.analyze([one], tmp_path / "full")
