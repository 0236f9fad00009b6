"""The report of adapters on a tiny base: what it holds, that it does not depend on the file's format, bad input."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import dreamtune
from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.models import load_base
from dreamtune.pipelines.cli import main
from dreamtune.pipelines.export import export
from tests.adapters.nets import disturb
from tests.tiny_models import tiny_folder

Make = Callable[..., Path]


@pytest.fixture
def make(tiny: Path, tmp_path: Path) -> Make:
    """Write the file of an adapter as in the middle of a training."""

    def made(name: str, method: str = "lora", *, seed: int = 0, base: Path = tiny, **options: Any) -> Path:
        given = {"targets": "attn", "class_word": "dog", "trigger": "sks", "zero": False} | options
        models = load_base(base, "cpu")
        with attach(models.unet, METHODS[method].config_class(rank=2, alpha=3.0), given["targets"]) as attached:
            for _, layer, adapter in attached.layers():
                if not given["zero"]:
                    disturb(adapter, layer.pristine, seed)
            file = AdapterFile.from_attached(
                attached, base=str(base), trigger=given["trigger"], class_word=given["class_word"], training={}
            )
        path = tmp_path / name / "adapter.safetensors"
        file.save(path)
        return path

    return made


@pytest.fixture(autouse=True)
def beside_the_base(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name a base by its folder alone, which is then found."""
    monkeypatch.chdir(tiny.parent)


class Page(HTMLParser):
    """What a page asks the network for, and how many pictures it has inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked, self.pictures, self.open = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        source = dict(attrs).get("src") or dict(attrs).get("href") or ""
        self.pictures += source.startswith("data:image/png;base64,")
        if source and not source.startswith("data:"):
            self.asked.append(source)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_of_several_methods(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [make(method, method, seed=seed) for seed, method in enumerate(("lora", "lora-dash", "dora"))]
    out = tmp_path / "report"
    arguments = ["--subject", "rex", "--subject", "rex", "--subject", "tom", "--timestep-profile", "--steps", "2"]
    assert main(["analyze", *map(str, files), *arguments, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    report = json.loads((out / "report.json").read_text())
    assert printed == {"out": str(out)} | report
    assert report["version"] == 1
    assert [(a["file"], a["method"]) for a in report["adapters"]] == [
        ("adapter.safetensors", method) for method in ("lora", "lora-dash", "dora")
    ]
    assert [a["name"] for a in report["adapters"]] == ["rex (1)", "rex (2)", "tom"]
    assert len(report["layers"]) == 32
    for layer in report["layers"]:
        assert [len(indices) for indices in layer["tsd"]] == [8, 8, 8]
        assert {(pair["a"], pair["b"]) for pair in layer["pairs"]} == {(0, 1), (0, 2), (1, 2)}
        for pair in layer["pairs"]:
            assert pair["shared"] == len(set(layer["tsd"][pair["a"]]) & set(layer["tsd"][pair["b"]]))
        assert set(layer["adapters"][1]["amplification"]) == {"all", "AB", "dash"}
        assert [layer["crosstalk"][i][i] for i in range(3)] == [1, 1, 1]
    assert [pair["relation"] for pair in report["pairs"]] == ["same subject", "same class", "same class"]
    assert report["relations"]["same class"]["pairs"] == 2
    assert len(report["interference"]["timestep_profiles"][0]["down"]) == 2
    page = Page((out / "report.html").read_text())
    pictures = {path.stem for path in out.glob("*.png")}
    assert pictures == {"matches", "overlap", "blocks", "matrices", "spectrum", "crosstalk", "timesteps", "health"}
    assert (page.asked, page.pictures, page.open) == ([], len(pictures), [])
    assert str(tmp_path) not in (out / "report.html").read_text() + (out / "report.json").read_text()


def test_python_interface_shows_itself_and_writes_nothing(make: Make) -> None:
    report = dreamtune.analyze([make("one"), make("two", seed=1)], interference=False, blocks=["up"])
    page = Page(report._repr_html_())
    assert page.pictures == 6
    assert {layer["block"] for layer in report.to_dict()["layers"]} == {"up"}
    assert report.to_dict()["interference"] is None


def test_the_format_of_the_file_does_not_matter(make: Make, tiny: Path, tmp_path: Path) -> None:
    ours, other = make("ours", seed=1), make("other", seed=2)
    export(ours, tmp_path / "peft", "peft")
    export(ours, tmp_path / "kohya.safetensors", "kohya")
    settings: dict[str, Any] = {"interference": False, "base": str(tiny)}
    expected = dreamtune.analyze([ours, other], **settings).to_dict()
    for copy in (tmp_path / "peft", tmp_path / "kohya.safetensors"):
        found = dreamtune.analyze([copy, other], **settings).to_dict()
        assert {layer["name"] for layer in found["layers"]} == {layer["name"] for layer in expected["layers"]}
        by_name = {layer["name"]: layer for layer in found["layers"]}
        for layer in expected["layers"]:
            assert by_name[layer["name"]]["tsd"] == layer["tsd"]
            (pair,), (wanted,) = by_name[layer["name"]]["pairs"], layer["pairs"]
            assert pair["cosine"] == pytest.approx(wanted["cosine"], abs=1e-6)
            assert pair["shared"] == wanted["shared"]


def test_one_adapter_alone_gives_its_health(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["analyze", str(make("one")), "--no-interference", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["pairs"] == []
    assert report["adapters"][0]["health"]["layers"] == 32
    assert {path.stem for path in out.glob("*.png")} == {"spectrum", "health"}
    told = capsys.readouterr().out
    assert "report.html" in told
    assert report["advice"] and all(line in told for line in report["advice"])


def test_an_adapter_that_changes_nothing_is_not_defined_rather_than_unlike(make: Make, tmp_path: Path) -> None:
    report = dreamtune.analyze([make("zero", zero=True), make("one")], tmp_path / "report", steps=1).to_dict()
    (pair,) = report["pairs"]
    assert (pair["overlap"], pair["cosine"], pair["z"]) == (None, None, None)
    assert report["interference"]["crosstalk"][0] == [None, None]
    assert "zero changes nothing" in " ".join(report["advice"])
    assert "not defined" in " ".join(report["advice"])


def test_more_directions_than_a_layer_has(make: Make, tmp_path: Path) -> None:
    report = dreamtune.analyze([make("a"), make("b", seed=1)], tmp_path / "r", interference=False, top_k=64).to_dict()
    assert {len(layer["tsd"][0]) for layer in report["layers"]} == {32, 64}
    assert all(pair["k"] in (32, 64) for layer in report["layers"] for pair in layer["pairs"])


def refused(message: str, *files: Path, **settings: Any) -> None:
    out = files[0].parent / "report"
    with pytest.raises((ConfigError, AdapterFileError), match=re.escape(message)):
        dreamtune.analyze(files, out, **settings)
    assert not out.exists()


def test_bad_input_is_refused_before_anything_is_written(make: Make, tiny: Path, tmp_path: Path) -> None:
    one, other = make("one"), make("two", seed=1)
    refused("have no layer in common", make("kv", targets=r"attn2\.to_k"), make("v", targets=r"attn2\.to_v"))
    elsewhere = tiny_folder(tmp_path / "wider", width=48)
    refused("different bases", one, make("wider", base=elsewhere))
    refused("different bases", one, make("wide", base=elsewhere), base=str(tiny))
    refused("is no valid regular expression", one, other, layers="(")
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
    with pytest.raises(ConfigError, match="holds something already"):
        dreamtune.analyze([one], tmp_path / "full")
