"""What is said of two adapters, with and without a measurement of how far it holds."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamtune.pipelines.analyze import together as analysis_together
from dreamtune.pipelines.analyze.effects import Together
from dreamtune.pipelines.analyze.together import footnote, sentences

TWO = Together(agreement=0.1, heard=(1.0, 0.5), kept=(0.9, 0.8))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    analysis_together.reliability.cache_clear()
    yield
    analysis_together.reliability.cache_clear()


def measured(path: Path, monkeypatch: pytest.MonkeyPatch, rho: float | None) -> None:
    same = {"auc": 0.97, "same": 6, "other": 24, "least_same": 0.8, "most_other": 0.3}
    path.write_text(json.dumps({"same_subject": same, "loss": {"judged_on": rho, "all": rho, "ways": 24}}))
    monkeypatch.setattr(analysis_together, "RELIABILITY", path)


def test_nothing_is_recommended_from_what_nobody_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_together, "RELIABILITY", tmp_path / "none.json")
    first, second = sentences(["rex", "tom"], (0, 1), TWO)
    assert "agreement 0.10" in first and "two subjects" in first
    assert second.endswith("rex keeps 90% of the effect it has alone and tom keeps 40%.")
    assert "not measured" in footnote("pocket")


def test_what_was_found_to_tell_is_acted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path / "m.json", monkeypatch, 0.7)
    assert "tom would be lost: give each its own region" in sentences(["rex", "tom"], (0, 1), TWO)[1]
    assert "0.70 on held-out pairs" in footnote("pocket") and footnote("sd1").endswith("This was not measured on sd1.")


@pytest.mark.parametrize("rho", [0.2, None])
def test_what_tells_nothing_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rho: float | None) -> None:
    measured(tmp_path / "m.json", monkeypatch, rho)
    assert len(sentences(["rex", "tom"], (0, 1), TWO)) == 1
    assert "No measure that was tried predicts" in footnote("pocket")


def test_one_subject_and_one_that_does_nothing() -> None:
    one = Together(agreement=0.9, heard=(1.0, 1.0), kept=(math.nan, math.nan))
    assert "they are of one subject" in sentences(["a", "b"], (0, 1), one)[0]
    none = Together(agreement=math.nan, heard=(1.0, math.nan), kept=(math.nan, math.nan))
    assert "nothing to compare" in sentences(["a", "b"], (0, 1), none)[0]
