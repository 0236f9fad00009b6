"""The layer benchmark measures what it says it does."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import layers
from dreamtune.adapters import METHODS


def test_layers_are_those_of_sd_1_5() -> None:
    kinds = layers.kinds()
    assert sum(kind.count for kind in kinds) == 128
    numbers = sum(kind.count * (kind.out_features * (kind.in_features + kind.bias)) for kind in kinds)
    assert numbers == 93_536_640  # parameters of attn1 and attn2 in SD 1.5's UNet


def test_every_library_and_method_has_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(layers, "kinds", lambda: [layers.Kind(50, 48, 32, True, 3), layers.Kind(8, 48, 32, False, 1)])
    monkeypatch.setattr("sys.argv", ["layers", "--out", str(tmp_path / "rows.json"), "--rank", "4", "--repeats", "1"])
    layers.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)
    named = {(row["library"], row["method"]): row for row in rows}
    assert len(named) == len(rows) == len(METHODS) + 4 + 7
    assert {("dreamtune", method) for method in METHODS} <= named.keys()
    assert all(row["ratio"] > 0 for row in rows)
    # Of LoRA only down·x is kept, of the layer with fewer tokens than inputs; DoRA keeps its output.
    assert named["dreamtune", "lora"]["saved_mb"] == pytest.approx(8 * 4 * 4 / 1e6, abs=0.05)
    assert named["dreamtune", "dora"]["saved_mb"] == pytest.approx(3 * 50 * 48 * 4 / 1e6, abs=0.05)


def test_what_is_kept_for_backward_is_counted_once() -> None:
    x, weight = torch.randn(10, 5, requires_grad=True), nn.Parameter(torch.randn(5, 5))

    def forward() -> torch.Tensor:
        y = (x @ weight).exp()  # keeps x and the weight, and y itself
        return y * y[:, :5]

    assert layers.kept_for_backward(forward, (x, weight)) == 10 * 5 * 4
    assert layers.kept_for_backward(forward, (weight,)) == 2 * 10 * 5 * 4
