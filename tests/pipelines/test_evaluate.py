"""`evaluate` on the tiny base, with tiny judges."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError, DatasetError, DreamtuneError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.evaluate.run import EvaluateConfig, EvaluateResult, check, evaluate
from dreamtune.pipelines.train.run import TrainResult
from tests.pipelines.conftest import Encoders


@pytest.fixture
def examine(tiny: Path, trained: TrainResult, photos: Path, encoders: Encoders, tmp_path: Path) -> Any:
    """Evaluate into a new folder with settings that take a moment; keywords replace them."""

    def call(out: str = "report", **changes: Any) -> EvaluateResult:
        values: dict[str, Any] = {
            "adapter": str(trained.adapter),
            "images": photos,
            "base": str(tiny),
            "dino": encoders.dino,
            "clip": encoders.clip,
            "n": 1,
            "steps": 1,
            "device": "cpu",
        }
        return evaluate(EvaluateConfig(**values | changes), tmp_path / out, on_progress=lambda _: None)

    return call


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.images: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += [value or "" for name, value in attrs if (tag, name) == ("img", "src")]

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_report(examine: Any, trained: TrainResult, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# two\na {token} {class} <b>here</b>\n\na sks dog at night\n", encoding="utf-8")
    result = examine(prompts=prompts, n=2)
    folder = tmp_path / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["pictures.png", "report.html", "report.json"]
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(result.to_dict()))
    assert (report["token"], report["class"], report["base"], report["references"]) == ("sks", "dog", "tiny", 3)
    assert report["adapter"]["file"] == "adapter.safetensors"
    assert report["judge"] == "dino and clip"
    assert str(trained.run.parent) not in (folder / "report.json").read_text(), "a report may be shown to others"
    assert [row["prompt"] for row in report["prompts"]] == ["a sks dog <b>here</b>", "a sks dog at night"]
    m = result.measured
    assert len(m.pictures_after) == 4
    assert report["likeness"]["adapter"] == pytest.approx(m.subject.generated, abs=1e-4)
    assert report["subject_fidelity"]["base"] == 0
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "1. a sks dog <b>here</b>" in page.cells, "escaped"
    assert page.images == ["pictures.png"]
    with Image.open(folder / "pictures.png") as sheet:
        assert sheet.width > 3 * 160
        assert sheet.height > 4 * 160


def test_the_page_tells_strengths_of_blocks(examine: Any, trained: TrainResult, tmp_path: Path) -> None:
    assert examine(adapter=f"{trained.adapter}:0.5,mid=0").to_dict()["adapter"]["blocks"] == {"mid": 0.0}
    assert "Strength 0.5, mid × 0 on the base" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_strength_zero_is_the_base(examine: Any, trained: TrainResult) -> None:
    measured = examine(adapter=f"{trained.adapter}:0").measured
    assert measured.drift == pytest.approx(0.0, abs=1e-6)
    assert [p.tobytes() for p in measured.pictures_class] == [p.tobytes() for p in measured.pictures_before]


def test_files_of_other_tools_are_told_who_they_show(examine: Any, trained: TrainResult, tmp_path: Path) -> None:
    state = AdapterFile.load(trained.adapter)
    nameless = tmp_path / "nameless.safetensors"
    AdapterFile(**{**vars(state), "token": "", "class_word": ""}).save(nameless)
    with pytest.raises(
        ConfigError, match=r"nameless\.safetensors does not record its token: set it, e\.g\. --token sks"
    ):
        examine(adapter=str(nameless))
    assert (
        examine(adapter=str(nameless), token="zwx", class_word="dog")
        .measured.by_prompt[0]
        .prompt.startswith("a zwx dog")
    )


def test_one_of_several_subjects_is_named(trained: TrainResult, photos: Path, tmp_path: Path) -> None:
    """Its class is the one that the file knows for it."""
    both = tmp_path / "both.safetensors"
    replace(AdapterFile.load(trained.adapter), others=(("zwx", "cat"),)).save(both)

    def first_prompt(**given: Any) -> str:
        return check(EvaluateConfig(adapter=str(both), images=photos, **given), tmp_path / "report")[1][0].named

    with pytest.raises(ConfigError, match=r"several subjects \(sks dog, zwx cat\): choose one, e\.g\. --token sks"):
        first_prompt()
    assert (first_prompt(token="sks"), first_prompt(token="ZWX")) == (
        "a sks dog on the beach",
        "a ZWX cat on the beach",
    )
    with pytest.raises(ConfigError, match="does not record its class"):
        first_prompt(token="qpl")


def test_one_real_picture_is_too_few_for_a_share(examine: Any, photos: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    (single / "0.png").write_bytes((photos / "0.png").read_bytes())
    result = examine(images=single)
    assert result.to_dict()["subject_fidelity"]["adapter"] is None
    assert -1 <= result.to_dict()["likeness"]["adapter"] <= 1
    assert any("undefined with only one real image of the subject" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"dino": None, "clip": None}, ConfigError, "no judge for images of the base 'tiny'"),
        ({"clip": None}, ConfigError, "dino is set, but clip is not"),
        ({"images": "nowhere"}, DatasetError, "no image folder at nowhere"),
        ({"prompts": "nowhere.txt"}, ConfigError, r"cannot read the prompts in nowhere\.txt: No such file"),
        ({"token": "zwx", "prompts": "zwx"}, ConfigError, r"zwx, line 1: .* does not name the subject"),
    ],
)
def test_bad_input_writes_nothing(
    examine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    kind: type[DreamtuneError],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zwx").write_text("a sks {class}")
    with pytest.raises(kind, match=message) as caught:
        examine(**changes)
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["zwx"]


def test_prompts_of_a_file_from_windows(examine: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("# places\na {token} {class} at night\n", encoding="utf-8-sig")
    (row,) = examine(prompts=tmp_path / "prompts.txt").measured.by_prompt
    assert row.prompt == "a sks dog at night"


def test_prompts_that_are_not_read_to_their_end(examine: Any, tmp_path: Path) -> None:
    long = f"a {'y' * 75} {{token}} {{class}}"
    (tmp_path / "prompts.txt").write_text(f"a {{token}} {{class}}\n{long}\n{long}\n")
    remarks = [it for it in examine(prompts=tmp_path / "prompts.txt").remarks if "of which the base reads" in it]
    assert remarks == [
        f"the prompt 'a {'y' * 37}…': has 82 tokens, of which the base reads 75; "
        f"shorten it: '{'y' * 39}…' is cut off, and 'sks' with it"
    ]


def test_a_report_is_never_overwritten(examine: Any, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="report is not empty: choose a new folder"):
        examine()
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["mine"]


def test_command(
    trained: TrainResult,
    tiny: Path,
    photos: Path,
    encoders: Encoders,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.get_rng_state()
    options = ["--base", tiny, "--dino", encoders.dino, "--clip", encoders.clip, "--n", 1, "--steps", 1]
    command = ["evaluate", trained.adapter, "--images", photos, *options, "--device", "cpu", "--out"]
    assert main([str(it) for it in [*command, tmp_path / "one", "--json"]]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["out"] == str(tmp_path / "one")
    assert set(shown["prompt_fidelity"]) == {"base", "adapter"}
    assert main([str(it) for it in [*command, tmp_path / "two"]]) == 0
    assert "subject fidelity" in capsys.readouterr().out
    assert main([str(it) for it in [*command, tmp_path / "two"]]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)
