"""docs/results.md and its figures say what the files of results say."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.machine import RESULTS
from docs import results, results_speed
from docs.results_figures import digest, draw_figure, draw_pictures

STALE = "stale: run `make docs`"


def test_the_document_is_made_from_the_files() -> None:
    assert results.DOCUMENT.read_text(encoding="utf-8") == results.document(), STALE
    text = results.README.read_text(encoding="utf-8")
    assert "<!-- results -->" in text and "<!-- /results -->" in text
    assert results.readme(text) == text, STALE


@pytest.mark.skipif(not (RESULTS / "quality.json").is_file(), reason="not measured yet")
def test_figures_are_made_from_the_files() -> None:
    for path in (results.FIGURE, results.PICTURES):
        with Image.open(path) as picture:
            assert picture.info["Source"] == digest("quality.json"), STALE


def test_another_number_makes_another_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads((RESULTS / "step.json").read_text(encoding="utf-8"))
    report["rows"][0]["cpu_seconds"] += 1
    (tmp_path / "step.json").write_text(json.dumps(report))
    before = results_speed.speed()
    monkeypatch.setattr(results_speed, "RESULTS", tmp_path)
    assert f"{report['rows'][0]['cpu_seconds']:.2f}" in results_speed.speed()
    assert f"{report['rows'][0]['cpu_seconds']:.2f}" not in before


FIGURES = ("fidelity", "verified", "told_apart", "prompt", "diversity", "memorised", "leak", "drift")
ABOUT = {"device": "a machine", "cores": 2, "versions": {"torch": "2.0"}, "commit": "abc"}


def test_a_report_becomes_tables_with_each_method_at_each_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"lora": 0.5, "dora": 0.75, "PEFT lora": 0.25}
    budgets, subjects = (25_000, 100_000), ("cat 0a", "cat 0b", "dog 1a")
    size = {"parameters": 1234, "cpu_seconds": 3.0, "file_bytes": 4000}
    runs = [
        {"budget": budget, "seed": 0, "method": method, "subject": subject, "lr": 1e-3}
        | (dict.fromkeys(FIGURES, value) | size)
        for budget in budgets
        for method, value in methods.items()
        for subject in subjects
    ]
    tried = {"lr": 1e-3, "subject": 0.5, "prompt": 0.9, "prompt_base": 0.9, "leak": 0.0, "acceptable": True}
    rates = {method: {"chosen": 1e-3, "at_the_edge": False, "tried": [tried]} for method in methods}
    report = {
        "about": ABOUT,
        "settings": {"steps": 120, "batch_size": 4},
        "coverage": {
            "levels": [{"budget": budget, "seed": 0} for budget in budgets],
            "remaining": [{"budget": 400_000, "seed": 0}],
            "subjects": list(subjects),
            "tuning_subjects": ["mug tuning 0"],
            "methods": list(methods),
            "photographs": 5,
            "prompts": 20,
            "pictures_per_prompt": 2,
        },
        "rates": {str(budget): rates for budget in budgets},
        "anchors": {name: {kind: dict.fromkeys(FIGURES, 0.1) for kind in ("base", "real")} for name in subjects},
        "runs": runs,
    }
    (tmp_path / "quality.json").write_text(json.dumps(report))
    monkeypatch.setattr(results_speed, "RESULTS", tmp_path)
    shown = results.readme("a\n<!-- results -->\nold\n<!-- /results -->\nb")
    assert "(docs/images/results.png)" in shown and "on 3 subjects" in shown and "old" not in shown
    text = results.quality(report)
    assert text.count("| dora | 1,234 | 0.75 (0.75–0.75) |") == len(budgets)
    assert text.count("| dora less lora | +0.250 (+0.250 to +0.250) | 0.250 | 0.500 |") == len(budgets)  # p of 2/2³
    assert text.count("| lora less PEFT lora | +0.250") == len(budgets)
    assert "Not covered: 400,000 (seed 0)." in text
    assert len(draw_figure(report).axes) == len(budgets)
    sheet = Image.new("RGB", (60, 30))
    assert [it.get_text() for it in draw_pictures(report, sheet).axes[0].get_yticklabels()] == ["photographs", *methods]


def test_a_verdict_is_printed_as_it_is() -> None:
    claim = {"claim": "A is better", "source": "a paper", "criterion": "A less B", "measured": "A - B -0.10"}
    report = {
        "about": ABOUT,
        "subjects": ["cat 0a"],
        "settings": {"steps": 120, "rates": {"lora": 0.01}},
        "claims": [claim | {"verdict": "does not"}],
    }
    assert "| A is better | a paper | A less B | A - B -0.10 | does not |" in results.claims(report)


def test_speed_has_a_part_for_every_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_speed, "RESULTS", tmp_path)
    assert results_speed.speed().count("Not measured yet") == 6
    row = {"seconds": 0.0, "library": "peft", "method": "lora", "ratio": 1.25, "saved_mb": 30.4}
    region = {
        "plain_seconds": 1.0,
        "regions_seconds": 1.1,
        "ratio": 1.12,
        "ratios": [1.0, 1.5],
        "processor_ratio": 1.07,
    }
    taken = {"method": "lora", "adapters": 2, "svd": 45.2, "wall": 11.1, "cpu": 20.4}
    reports = {
        "layers": {"rank": 8, "rows": [row, row | {"library": "dreamtune", "ratio": 1.1}]},
        "regions": {"pocket": region},
        "analyzer": {
            **{"rank": 8, "threads": 2, "peak_mb": 900, "costs": {"lora": {}}},
            "rows": [taken | {"cached": False}, taken | {"cached": True}],
        },
    }
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"about": ABOUT} | report))
    text = results_speed.speed()
    assert text.count("Not measured yet") == 3
    assert "| lora | 1.25, 30 MB | 1.10, 30 MB |" in text
    assert "| pocket | 1.00 | 1.10 | 1.12 (1.00 to 1.50) | 1.07 |" in text
    assert "| lora | 11 (20) |" in text and "these take 45 s" in text
