"""The quality benchmark compares what it says it does: the same subjects, the same loop, the same budgets."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import quality, quality_methods, quality_plan, quality_work, time_to_subject
from benchmarks.quality_measure import asked, memorised
from benchmarks.quality_methods import BUDGETS, CONTESTANTS, RATES, PeftAttached, attached_by, count, sized
from benchmarks.quality_plan import LEVELS, Plan, coverage
from benchmarks.quality_run import Settings, Task
from benchmarks.quality_subjects import held_out, individual, pixels, prompts, tuning
from benchmarks.quality_work import Job, do_all, result_of
from benchmarks.time_to_subject import curve, reached
from dreamtune.errors import ConfigError
from dreamtune.evaluation import PromptPair
from dreamtune.models import Base
from dreamtune.pocket.evaluators import Reading
from dreamtune.pocket.evaluators.reading import Found
from dreamtune.pocket.world import CONTEXTS


class Net(nn.Module):
    """Layers of the shapes of the embedded base, by names that the targets find."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"attn1": nn.ModuleDict({"to_q": nn.Linear(192, 192), "to_k": nn.Linear(160, 64)})})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(Any, self.block)["attn1"]["to_q"](x)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Base]:
    monkeypatch.setattr(quality_methods, "TARGETS", "attn1")
    torch.manual_seed(0)
    yield cast(Base, SimpleNamespace(unet=Net().requires_grad_(False), id="net"))


def test_subjects_are_pairs_of_look_alikes_of_four_classes_and_none_is_tuned_on() -> None:
    names = held_out()
    assert len(names) >= 8
    assert len({name.split()[0] for name in names}) >= 4
    assert not set(names) & set(tuning())
    first, second = (individual(name).subject for name in names[:2])
    assert first != second
    assert (first.cls, first.color, first.pattern) == (second.cls, second.color, second.pattern)
    tuned = [individual(name).subject for name in tuning()]
    assert all(individual(name).subject not in tuned for name in names)


def test_photographs_are_the_same_each_time_and_unseen_ones_are_others_in_the_same_places() -> None:
    who = individual(held_out()[0])
    individual.cache_clear()
    again = individual(held_out()[0])
    assert np.array_equal(pixels(who.photos), pixels(again.photos))
    assert len(who.unseen) == len(who.photos) == len(who.places)
    assert not any(np.array_equal(*pixels([a, b])) for a in who.photos for b in who.unseen)
    assert len(who.real) == len(prompts(who.cls))


def test_there_are_twenty_prompts_for_each_subject() -> None:
    assert len({pair.named for pair in prompts("cat")}) == 20
    assert all("zwx" in pair.named and "zwx" not in pair.bare for pair in prompts("cat", "zwx"))


def test_a_prompt_for_size_or_side_is_judged_by_the_box() -> None:
    def read(box: tuple[float, float, float, float]) -> Reading:
        return Reading("beach", (Found("cat", "red", "plain", None, None, box, 1.0),))

    left, right = (0.1, 0.3, 0.5, 0.9), (0.5, 0.3, 0.9, 0.9)
    assert asked(read(left), "a cat on the left on the beach") == 1
    assert asked(read(right), "a cat on the left on the beach") == pytest.approx(2 / 3)
    assert asked(read(right), "a cat on the beach") == 1
    assert asked(read((0.3, 0.3, 0.7, 0.7)), "a small cat on the beach") == 1
    assert asked(read((0.1, 0.1, 0.9, 0.9)), "a small cat in the snow") == pytest.approx(1 / 3)


def test_copies_count_as_memorised_and_pictures_of_elsewhere_do_not_count() -> None:
    who = individual(held_out()[0])
    there = PromptPair("", f"a {who.cls} {CONTEXTS[who.places[0]]}")
    elsewhere = PromptPair("", "a cat on the moon")
    assert memorised(who, [who.photos[0], who.unseen[0]], [there, elsewhere]) == 1
    assert memorised(who, [who.unseen[0], who.photos[0]], [there, elsewhere]) == 0


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda it: it.name)
def test_a_contestant_has_the_numbers_that_were_counted_and_leaves_no_trace(contestant: Any, net: Base) -> None:
    before = {name: value.clone() for name, value in net.unet.state_dict().items()}
    options = sized(contestant.method, net, 3_000)
    shapes = ((192, 192), (64, 160))
    x = torch.randn(3, 192)
    untouched = net.unet(x)
    for _ in range(2):  # the second must not take the first for a part of the model
        attached = attached_by(net, contestant.toolkit, contestant.method, options, seed=0)
        assert sum(p.numel() for p in attached.parameters()) == count(contestant.method, options, shapes)
        assert torch.equal(net.unet(x), untouched)  # no change at first
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter += 0.1
        if contestant.method != "lora-dash":
            assert not torch.allclose(net.unet(x), untouched)
        with attached.disabled():
            assert torch.equal(net.unet(x), untouched)
        attached.detach()
    after = net.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_budgets_are_met_as_closely_as_ranks_allow(net: Base) -> None:
    shapes = ((192, 192), (64, 160))
    for method in RATES:
        numbers = [count(method, sized(method, net, budget), shapes) for budget in (1_000, 4_000, 16_000)]
        assert numbers == sorted(numbers)
    assert abs(count("lora", sized("lora", net, 4_000), shapes) - 4_000) < 608 / 2  # a rank has 608 numbers
    peft = {it.method for it in CONTESTANTS if it.toolkit == "peft"}
    assert peft == {"lora", "dora", "loha", "lokr"}
    assert len({len(rates) for rates in RATES.values()}) == 1  # equal tuning


def test_peft_learns_by_the_same_interface(net: Base) -> None:
    attached = attached_by(net, "peft", "lora", (("alpha", 4.0), ("rank", 4)), seed=0)
    assert isinstance(attached, PeftAttached)
    (parameters,) = attached.parameter_groups().values()
    assert len(parameters) == 4
    net.unet(torch.randn(2, 192)).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in parameters)
    attached.detach()


def test_levels_cover_all_budgets_first_and_at_least_three_seeds() -> None:
    assert {budget for budget, _ in LEVELS[: len(BUDGETS)]} == set(BUDGETS)
    assert len({seed for _, seed in LEVELS}) >= 3
    told = coverage(quality_plan.whole(2))
    assert len(told["levels"]) == 2
    assert len(told["remaining"]) == len(LEVELS) - 2


def square(task: int, device: str, place: Path) -> dict[str, Any]:
    """A job that counts how often it is done."""
    with (place.parent / "calls").open("a") as file:
        file.write("x")
    return {"square": task**2}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do jobs in this process."""
    monkeypatch.setattr(quality_work, "base_digest", lambda: "base")
    monkeypatch.setattr(quality_work, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))


@pytest.mark.usefixtures("here")
def test_what_has_been_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(f"square 0.5 {n}", square, n) for n in (2, 3)]
    told: list[str] = []
    assert [it["square"] for it in do_all(tmp_path, jobs, 1, "cpu", told.append)] == [4, 9]
    assert len(told) == 2
    jobs.append(Job("square 4", square, 4))
    assert [it["square"] for it in do_all(tmp_path, jobs, 1, "cpu", told.append)] == [4, 9, 16]
    assert (tmp_path / "calls").read_text() == "xxx"
    assert result_of(tmp_path, jobs[0], "cuda") is None  # devices are not mixed
    monkeypatch.setattr(quality_work, "base_digest", lambda: "another base")
    assert result_of(tmp_path, jobs[0], "cpu") is None


def fails(task: int, device: str, place: Path) -> dict[str, Any]:
    """A job that is done slowly, but for the first, which fails."""
    if not task:
        raise ConfigError("no such thing")
    time.sleep(0.02)
    return {}


@pytest.mark.usefixtures("here")
def test_a_job_that_fails_ends_the_others_too(tmp_path: Path) -> None:
    jobs = [Job(f"job {n}", fails, n) for n in range(20)]
    with pytest.raises(ConfigError, match="no such thing"):
        do_all(tmp_path, jobs, 1, "cpu", lambda _: None)
    assert len(list(tmp_path.iterdir())) < 5


def test_a_curve_counts_neither_data_nor_pictures(net: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0

    def spend(more: float) -> None:
        nonlocal seconds
        seconds += more

    def train(base: Base, attached: Any, task: Task, on_step: Any, on_start: Any) -> None:
        spend(100)  # photographs are encoded and class pictures drawn
        on_start(0)
        for step in range(1, task.settings.steps + 1):
            spend(1)
            on_step(SimpleNamespace(step=step))

    def measure(attached: Any) -> tuple[dict[str, float], list[Any]]:
        spend(10)
        return {"fidelity": 0.5}, []

    monkeypatch.setattr(time_to_subject, "base_on", lambda device: net)
    monkeypatch.setattr(time_to_subject, "train", train)
    monkeypatch.setattr(time_to_subject.time, "process_time", lambda: seconds)
    task = Task("dog 0a", "dreamtune", "lora", (("alpha", 1.0), ("rank", 1)), 1e-3, 0, Settings(steps=20))
    points = curve(task, "cpu", cast(Any, SimpleNamespace(measure=measure)))
    assert [(it["step"], it["seconds"]) for it in points] == [(step, step) for step in range(2, 21, 2)]


def test_time_to_subject_is_where_fidelity_stays_near_its_end() -> None:
    points = [
        {"step": s, "seconds": s, "fidelity": v}
        for s, v in ((1.0, 0.2), (2.0, 0.95), (3.0, 0.5), (4.0, 1.0), (5.0, 1.0))
    ]
    assert reached(points) == pytest.approx(3.8)  # the early peak does not last; 0.9 lies 4/5 of the way to 1.0
    with pytest.raises(ConfigError, match="after 1 steps nothing has been learned"):
        reached([{"step": 1, "seconds": 1.0, "fidelity": -0.1}])


def test_the_estimate_leaves_out_what_is_done(tmp_path: Path, net: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_work, "base_digest", lambda: "base")
    monkeypatch.setattr(quality_plan, "base_on", lambda device: net)
    monkeypatch.setattr(quality, "run", lambda task, device: ({"seconds": 1.0}, None))
    plan = Plan(Settings(), LEVELS[:1], ("dog 0a", "dog 0b"), ("robot tuning 0",), CONTESTANTS[:2])
    (budget, seed), fresh = LEVELS[0], quality.estimate(plan, tmp_path, 1, "cpu")
    assert "0 of 6 tuning runs done, 4 runs" in fresh
    figures = {"fidelity": 0.5, "prompt": 0.9, "prompt_base": 0.9, "leak": 0.0}

    def finish(job: Job) -> None:
        place = job.place(tmp_path, "cpu")
        (place.parent / f"{place.name}.json").write_text(json.dumps(figures))

    for job in plan.tuning_jobs(budget):
        finish(job)
    assert "6 of 6 tuning runs done, 4 runs" in quality.estimate(plan, tmp_path, 1, "cpu")
    for job in plan.jobs(budget, seed, {it.name: plan.grid(it)[0] for it in plan.contestants})[:3]:
        finish(job)
    assert "6 of 6 tuning runs done, 1 runs" in quality.estimate(plan, tmp_path, 1, "cpu")


@pytest.mark.slow
def test_two_runs_give_the_same_figures_but_for_times(tmp_path: Path) -> None:
    contestants = tuple(it for it in CONTESTANTS if it.name in ("lora-dash", "PEFT loha"))
    settings = Settings(steps=4, batch_size=2, prior_pictures=2, drawing_steps=2)
    plan = Plan(settings, LEVELS[:1], (held_out()[0],), (), contestants)
    reports = []
    for name, workers in (("one", 1), ("two", 2)):
        report = quality.measure(plan, tmp_path / name, workers, "cpu")
        for run in report["runs"]:
            del run["seconds"], run["cpu_seconds"]
        reports.append(json.dumps(report))
    assert reports[0] == reports[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_method_learns_a_subject_and_none_forgets_what_prompts_mean(tmp_path: Path) -> None:
    out = tmp_path / "quick.json"
    quality.main(["--quick", "--work", str(tmp_path / "work"), "--out", str(out)])
    report = json.loads(out.read_text())
    assert out.with_suffix(".png").is_file()
    for contestant in CONTESTANTS:
        rows = [run for run in report["runs"] if run["method"] == contestant.name]
        assert len(rows) == 2
        assert np.mean([run["fidelity"] for run in rows]) > 0.1, contestant.name  # 0 is the base
        kept = np.mean([run["prompt"] - 0.75 * run["prompt_base"] for run in rows])
        assert kept > 0, contestant.name


def test_a_task_is_told_apart_by_all_of_its_fields() -> None:
    task = Task("dog 0a", "dreamtune", "lora", (("alpha", 1.0), ("rank", 1)), 1e-3, 0, Settings())
    others = [replace(task, lr=2e-3), replace(task, seed=1), replace(task, settings=Settings(steps=1))]
    assert len({repr(it) for it in (task, *others)}) == 4
