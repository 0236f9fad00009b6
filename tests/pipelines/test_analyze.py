"""The report of adapters on a tiny base: what it holds, and its page."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from safetensors.torch import load_file

import dreamtune
from dreamtune.adapters import AdapterFile
from dreamtune.models import load_base
from dreamtune.pipelines.cli.analyze import show
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.export.trim import trim

Make = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("beside_the_base")


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
        for adapter in layer["adapters"]:
            assert len(adapter["projections"]["strongest_global"]) == len(adapter["core_shares"]) == 8
            assert 0 < sum(adapter["core_shares"]) <= adapter["projections"]["core"] <= adapter["projections"]["global"]
        assert [layer["crosstalk"][i][i] for i in range(3)] == [1, 1, 1]
    assert [pair["relation"] for pair in report["pairs"]] == ["same subject", "same class", "same class"]
    assert report["relations"]["same class"]["pairs"] == 2
    assert len(report["interference"]["timestep_profiles"][0]["down"]) == 2
    page = Page((out / "report.html").read_text())
    pictures = {path.stem for path in out.glob("*.png")}
    of_pairs, alone = {"matches", "overlap", "blocks", "matrices", "crosstalk"}, {"spectrum", "projections", "health"}
    assert pictures == of_pairs | alone | {"timesteps"}
    assert (page.asked, page.pictures, page.open) == ([], len(pictures), [])
    assert str(tmp_path) not in (out / "report.html").read_text() + (out / "report.json").read_text()


def test_python_interface_shows_itself_and_writes_nothing(make: Make) -> None:
    report = dreamtune.analyze([make("one"), make("two", seed=1)], interference=False, blocks=["up"])
    page = Page(report._repr_html_())
    assert page.pictures == 7
    assert {layer["block"] for layer in report.to_dict()["layers"]} == {"up"}
    assert report.to_dict()["interference"] is None


def test_one_adapter_alone_gives_its_health(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["analyze", str(make("one")), "--no-interference", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["pairs"] == []
    assert report["adapters"][0]["health"]["layers"] == 32
    assert {path.stem for path in out.glob("*.png")} == {"spectrum", "projections", "health"}
    told = capsys.readouterr().out
    assert "report.html" in told
    assert report["advice"] and all(line in told for line in report["advice"])


@pytest.mark.parametrize("method", ["lora", "full", "loha", "lokr", "dora"])
def test_the_rank_to_trim_to_is_of_the_change_whatever_the_methods_rank_means(
    make: Make, tiny: Path, method: str
) -> None:
    """LoHa's is up to r², that of full, LoKr and DoRA up to the layer's: advice only where LoRA would be smaller."""
    path = make("one", method)
    report = dreamtune.analyze([path], interference=False).to_dict()
    health = report["adapters"][0]["health"]
    file = AdapterFile.load(path)
    spectra = file.spectra(file.weights(load_base(tiny, "cpu").parts)).values()
    assert health["rank"] == max(int((it.values > 1e-6 * it.values[0]).sum()) for it in spectra)
    trimmed = trim(path, path.parent / "small.safetensors", base=report["base"])
    assert health["trim_to"] == max(trimmed.ranks.values()) <= health["rank"]
    stored = load_file(path.parent / "small.safetensors").values()
    assert health["trimmed_parameters"] == sum(tensor.numel() for tensor in stored)
    advised = [line for line in report["advice"] if "dreamtune trim" in line]
    assert bool(advised) == (health["trim_to"] < health["rank"] and trimmed.bytes_after < trimmed.bytes_before)
    assert all(("--base" in line) == (method == "dora") for line in advised)


def test_pairs_from_one_seed_are_a_kind_of_their_own(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """They began alike, which says nothing of their subjects: not counted among those of a class, and told."""
    files = [make(f"r{i}", seed=i, training={"seed": seed}) for i, seed in enumerate((0, 1, 0, 2, 3))]
    subjects = ["rex", "rex", "bella", "tom", "ina"]
    found = dreamtune.analyze(files, subjects=subjects, interference=False, layers="down.*attn1.to_q$")
    show(found, Path("out"))
    told, report = capsys.readouterr().out, found.to_dict()
    kinds = {(pair["a"], pair["b"]): pair["relation"] for pair in report["pairs"]}
    assert kinds[0, 1] == "same subject"
    assert kinds[0, 2] == "same seed"
    assert set(kinds.values()) - {"same subject", "same seed"} == {"same class"}
    assert {name: found["pairs"] for name, found in report["relations"].items()} == {
        "same subject": 1, "same class": 8, "same seed": 1
    }  # fmt: skip
    assert "1 pair of 10 used the same seed" in told
    assert "10 pairs: see the report" in told
    assert sum("both used seed 0" in line for line in report["advice"]) == 1
