"""The table of claims: what is trained for it, and that its verdicts follow the figures."""

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.claims import HIGH_RANK, RATES, ClaimsPlan
from benchmarks.claims_methods import method_claims
from benchmarks.claims_run import choose_directions, learning
from benchmarks.claims_verdicts import verdicts
from benchmarks.quality_run import Settings
from dreamtune.adapters import attach
from dreamtune.adapters.methods.lora_dash import LoRADash, LoRADashConfig

PLAN = ClaimsPlan(Settings(steps=120), pairs=2)


def test_every_training_is_another_one_and_all_have_the_same_recipe() -> None:
    watched = [it for subject in PLAN.subjects for it in PLAN.trainings(subject).values()]
    assert len({repr(it) for it in watched}) == len(watched)
    assert {it.task.settings for it in watched} == {PLAN.settings}
    usual = [it for it in watched if dict(it.task.options)["rank"] != HIGH_RANK]
    assert all(it.task.lr == RATES[it.task.method] for it in usual)
    assert len(watched) - len(usual) == 3 * len(PLAN.subjects)
    assert len({learning(it).label for it in watched}) == len(watched)


def test_fused_subjects_have_words_of_their_own_and_the_columns_that_are_said() -> None:
    for subject in PLAN.subjects:
        for name, fusion in PLAN.fusions(subject).items():
            own, other = fusion.own.task, fusion.other.task
            assert own.subject == subject
            assert {own.subject[-1], other.subject[-1]} == {"a", "b"}
            assert own.subject[:-1] == other.subject[:-1]
            assert own.token != other.token
            blocks = {dict(it.options).get("column_offset", 0) for it in (own, other)}
            assert len(blocks) == (2 if name == "other columns" else 1)


@pytest.mark.parametrize(("choice", "expected"), [("top", [0, 1, 2]), ("bottom", [13, 14, 15]), ("random", None)])
def test_other_directions_can_be_launched(choice: str, expected: list[int] | None) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(20, 16, bias=False)
    net = nn.ModuleDict({"layer": layer}).requires_grad_(False)
    weight = layer.weight.clone()
    with attach(net, LoRADashConfig(rank=2, directions=3, launch_step=1_000), "layer") as attached:
        choose_directions(attached, choice)
        (adapter,) = attached.adapters.values()
        assert isinstance(adapter, LoRADash)
        picked = adapter.indices.tolist()
        assert picked == expected if expected else len(set(picked)) == 3
        assert not adapter.delta_weight(weight).any()
        with torch.no_grad():
            adapter.delta_sigma.add_(1)
        values = torch.linalg.svdvals(weight)
        assert torch.allclose(
            torch.linalg.svdvals(weight + adapter.delta_weight(weight)),
            (values + torch.isin(torch.arange(16), adapter.indices)).sort(descending=True).values,
            atol=1e-4,
        )


def _figures(gain: float) -> dict[str, Any]:
    """What the trainings of one subject could find; `gain` is how much better LoRA-Dash's own directions are."""
    seen = {str(step): {"layer": list(range(16))} for step in (12, 24, 120)}
    plain = {name: {"fidelity": 0.5} for name in ("full", "spectral 0", "spectral 1", "high rank")}
    found = plain | {"lora": {"fidelity": 0.4, "seen": seen}, "dash": {"fidelity": 0.5 + gain}}
    for rank, name in enumerate(("dash bottom", "dash random", "dash top"), 1):
        found[name] = {"fidelity": 0.5 - 0.1 * rank}
    found |= {"high rank rs": {"fidelity": 0.45}, "high rank same": {"fidelity": 0.1}}
    return found | {"dash late": {"fidelity": 0.5}, "dash 32": {"fidelity": 0.5}}


def _told(gain: float) -> dict[str, str]:
    subjects = PLAN.subjects
    adapter = {
        "place": 0.8,
        "share_of_first": 0.3,
        "ranks": [10],
        "amplification": {"all": 3.0, "AB": 1.1, "dash": 2.9},
    }
    shared = {f"{a}-{b}": 4.0 if a // 2 == b // 2 else 2.0 for a in range(4) for b in range(a + 1, 4)}
    seen = {"adapters": [adapter] * 4, "shared": shared, "chance": dict.fromkeys(shared, 3.0), "smallest_place": 0.95}
    together = {name: {"same columns": {"fidelity": 0.1}, "other columns": {"fidelity": 0.48}} for name in subjects}
    truth = {name: {"layer": list(range(16))} for name in subjects}
    rows = verdicts(
        subjects,
        {name: _figures(gain) for name in subjects},
        together,
        dict.fromkeys(("full", "dash", "spectral 0"), seen),
        truth,
        None,
    )
    return {row["claim"].split(",")[0]: row["verdict"] for row in rows}


def test_verdicts_follow_the_figures() -> None:
    told = _told(gain=0.05)
    assert told["Task-specific directions lie at small"] == "holds"
    assert told["Few directions change much"] == "does not"  # the strongest have 0.3 of the sum
    assert told["They differ between subjects"] == "holds"
    assert told["Subjects of different classes share more of them than unrelated changes would"] == "does not"
    assert told["Closer subjects share more of them"] == "holds"
    assert told["LoRA's ΔW shows the task-specific directions early"] == "holds"
    assert told["A pre-launch phase longer than needed hurts"] == "holds"
    assert told["Disjoint columns prevent loss of identity in fusion"] == "holds"
    assert told["In disjoint columns a subject loses less than a tenth by fusion"] == "holds"
    assert told["At one learning rate rsLoRA learns more than LoRA at rank 64 (alpha 8)"] == "holds"
    assert told["At its best learning rate rsLoRA learns more than LoRA at its own"] == "does not"
    worse = _told(gain=-0.2)
    assert worse["A pre-launch phase longer than needed hurts"] == "does not"
    assert worse["Task-specific directions are better than those of the smallest singular values"] == "does not"
    assert worse["Closer subjects share more of them"] == "holds"


def test_claims_that_compare_methods_need_the_results_of_all_methods() -> None:
    assert not any("LoRA-Dash learns" in claim for claim in _told(0.1))


def test_claims_that_compare_methods_follow_the_results_of_all_methods() -> None:
    """Fidelity by method; DoRA gains at the small budget alone, and LoHa has the prompts but not the diversity."""
    fidelity = {"lora": 0.5, "dora": 0.5, "lora-dash": 0.4, "spectral-r": 0.7, "loha": 0.3, "lokr": 0.5}
    runs = [
        {"subject": subject, "method": method, "budget": budget, "diversity": 0.5, "prompt": 0.9}
        | {"fidelity": value + 0.01 * place + (0.1 if (method, budget) == ("dora", 25_000) else 0.0)}
        | ({"diversity": 0.4, "prompt": 0.95} if method == "loha" else {})
        for method, value in fidelity.items()
        for budget in (25_000, 100_000)
        for place, subject in enumerate(PLAN.subjects)
    ]
    methods = [*fidelity, "PEFT lora"]
    told = {it["claim"]: it for it in method_claims({"runs": runs, "coverage": {"methods": methods}})}
    assert {claim: it["verdict"] for claim, it in told.items()} == {
        "LoRA-Dash learns a subject better than LoRA": "does not",
        "LoRA-Dash is better than LoRA where following prompts counts as much": "does not",
        "DoRA learns a subject better than LoRA": "holds",
        "DoRA is better than LoRA where following prompts counts as much": "holds",
        "DoRA's gain is larger at low rank": "holds",
        "The rotational Spectral Adapter is the best at the smallest budget": "holds",
        "LoKr is more faithful than LoRA, and LoRA than LoHa": "unclear",  # LoKr's is the same
        "LoHa keeps more diversity and follows prompts better than LoRA": "does not",
    }
    best = told["The rotational Spectral Adapter is the best at the smallest budget"]["differences"]
    assert best.keys() == {f"- {method}" for method in fidelity if method != "spectral-r"}
    assert best["- dora"]["mean"] == pytest.approx(0.1)
    one = [run for run in runs if run["budget"] == 25_000]
    assert len(method_claims({"runs": one, "coverage": {"methods": methods}})) == len(told) - 1
