"""What adapters do to a base's predictions: asked of the tiny base."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamtune.models import Base, load_base
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.analyze.effects import Together, effects
from dreamtune.pipelines.progress import Progress

Make = Callable[..., Path]


@pytest.fixture
def base(tiny: Path) -> Base:
    return load_base(str(tiny))


def asked(base: Base, *texts: str, told: list[Progress] | None = None) -> dict[tuple[int, int], Together]:
    tell = (lambda _: None) if told is None else told.append
    return effects([AdapterRef.load(text) for text in texts], base, tell, steps=2)


def test_an_adapter_agrees_with_itself(make: Make, base: Base) -> None:
    file = str(make("one", seed=1))
    told: list[Progress] = []
    (found,) = asked(base, file, f"{file}:0.98", told=told).values()
    assert found.agreement > 0.99
    assert found.heard[0] > 0
    assert [(it.phase, it.done, it.total) for it in told] == [("effects", 1, 1)]


def test_unrelated_adapters_do_not_agree_and_the_base_is_left_as_it_was(make: Make, base: Base) -> None:
    files = [str(make(f"made{seed}", seed=seed)) for seed in (1, 2, 3)]
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    found = asked(base, *files)
    assert sorted(found) == [(0, 1), (0, 2), (1, 2)]
    assert all(abs(it.agreement) < 0.9 for it in found.values())
    assert all(value.equal(before[name]) for name, value in base.unet.state_dict().items())
    assert found == asked(base, *files), "the same every time"


def test_one_that_does_nothing_has_no_figures(make: Make, base: Base) -> None:
    (found,) = asked(base, str(make("one", seed=1)), f"{make('two', seed=2)}:0").values()
    assert math.isnan(found.agreement) and math.isnan(found.heard[1])
    assert all(map(math.isnan, found.kept))
