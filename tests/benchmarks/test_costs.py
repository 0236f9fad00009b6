"""What a method's time is spent on is counted by kind, with the frozen layers' own taken off."""

from pathlib import Path

import pytest

from benchmarks import costs
from benchmarks.layers import Kind


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mm", [[77, 320], [320, 8]], "thin products"),
        ("aten::addmm_", [[77, 320], [77, 8], [8, 320]], "thin products"),
        ("aten::addmm", [[320], [77, 768], [768, 320]], "full products"),
        ("aten::mul_", [[320, 8], [320, 8]], "mul"),
    ],
)
def test_products_are_told_apart_by_their_smallest_dimension(name: str, shapes: list[list[int]], kind: str) -> None:
    assert costs.kind_of(name, shapes, rank=8) == kind


@pytest.mark.slow
@pytest.mark.alone  # which costs are the largest is told by time, and another process on the machine changes it
def test_costs_come_from_the_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(costs, "kinds", lambda: [Kind(256, 64, 64, True, 2)])
    found = costs.measure(rank=4, repeats=30, methods=["lora", "full"])
    assert set(found) == {"lora", "full"}
    assert all(row["ratio"] > 1 for row in found.values())
    assert "thin products" in [it["operation"] for it in found["lora"]["costs"]]
    for row in found.values():
        shares = [it["share"] for it in row["costs"]]
        assert len(shares) == costs.SHOWN and shares == sorted(shares, reverse=True) and shares[0] > 0
