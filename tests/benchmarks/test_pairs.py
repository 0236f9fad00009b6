"""The study of two subjects in one picture: its summary, and going on where it was stopped."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from benchmarks import pairs, pairs_people
from benchmarks.machine import RESULTS
from benchmarks.pairs_people import PEOPLE, trained
from dreamtune.errors import ConfigError


def test_the_summary_follows_from_the_pairs() -> None:
    report = json.loads((RESULTS / "pairs.json").read_text(encoding="utf-8"))
    assert pairs.summary(report["pairs"]) == report["summary"]


def test_pictures_that_were_not_finished_are_drawn_anew_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = tmp_path / "out", []

    def generate(config: Any, out: Path) -> None:
        """Numbers on, as the real one does."""
        calls.append(out)
        out.mkdir(parents=True, exist_ok=True)
        first = len(list(out.glob("*.png")))
        for number in range(first, first + 3):
            Image.new("RGB", (4, 4)).save(out / f"{number:04d}.png")

    monkeypatch.setattr(pairs, "generate", generate)
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "0000.png")  # and then it was killed
    for _ in range(2):
        assert len(pairs.drawn(cast(Any, None), folder)) == 3
    assert len(calls) == 1


def test_an_adapter_of_other_steps_is_not_taken_for_one_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "sks-lora"
    run.mkdir(parents=True)
    (run / "report.json").touch()
    monkeypatch.setattr(pairs_people, "load_run_config", lambda _: SimpleNamespace(steps=10))
    assert trained(PEOPLE[0], "lora", tmp_path, 10) == run / "adapter.safetensors"
    with pytest.raises(ConfigError, match="a training of 10 steps, not 300"):
        trained(PEOPLE[0], "lora", tmp_path, 300)
