"""The analyzer's benchmark measures every layer with and without stored singular vectors."""

import json
from pathlib import Path

import pytest

from benchmarks import analyzer, layers


def test_rows_of_small_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(analyzer, "kinds", lambda: [layers.Kind(8, 32, 24, False, 2), layers.Kind(8, 24, 40, False, 1)])
    analyzer.main(["--out", str(tmp_path / "rows.json"), "--threads", "1", "--methods", "lora", "dora"])
    told = json.loads((tmp_path / "rows.json").read_text())
    rows = [(row["method"], row["adapters"], row["cached"]) for row in told["rows"]]
    stored = [(method, adapters, True) for method in ("lora", "dora") for adapters in (1, 2, 4)]
    assert rows == [("lora", 2, False), *stored]
    assert told["costs"].keys() == {"lora", "dora"}
    assert told["costs"]["dora"]["four"] > told["costs"]["dora"]["adapter"] > 0
    assert all(row["cpu"] > 0 and row["wall"] > 0 for row in told["rows"])
    assert told["peak_mb"] > 0


def test_layers_are_those_of_sd_1_5() -> None:
    names = [name for name, _ in analyzer.weights(3)]
    assert len(set(names)) == 3
    assert sum(kind.count for kind in analyzer.kinds()) == 128
