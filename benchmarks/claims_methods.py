"""Claims that compare methods, read from the results of the quality benchmark."""

from __future__ import annotations

from typing import Any

from benchmarks.claims_table import DASH, DORA, LYCORIS, SPECTRAL, row
from benchmarks.quality_statistics import by_subject


def method_claims(quality: dict[str, Any]) -> list[dict[str, Any]]:
    """Claims that compare methods at equal budgets."""
    budgets = sorted({run["budget"] for run in quality["runs"]})

    def of(method: str, figure: str, budget: int | None = None) -> dict[str, float]:
        rows = [it for it in quality["runs"] if it["method"] == method and budget in (None, it["budget"])]
        return by_subject(rows, figure)

    def less(one: str, other: str, figure: str = "fidelity", budget: int | None = None) -> dict[str, float]:
        a, b = of(one, figure, budget), of(other, figure, budget)
        return {name: a[name] - b[name] for name in a.keys() & b.keys()}

    small, large = budgets[0], budgets[-1]
    rivals = [it for it in quality["coverage"]["methods"] if it != "spectral-r" and not it.startswith("PEFT")]
    gain, gain_large = (less("dora", "lora", budget=budget) for budget in (small, large))
    gap = {name: gain[name] - gain_large[name] for name in gain.keys() & gain_large.keys()}
    at = "subject fidelity at all budgets that were measured"
    both = "harmonic mean of subject and prompt fidelity at all budgets that were measured"
    return [
        *(
            told
            for name, method, source in (("LoRA-Dash", "lora-dash", DASH), ("DoRA", "dora", DORA))
            for told in (
                row(f"{name} learns a subject better than LoRA", source, at, {f"{name} - LoRA": less(method, "lora")}),
                row(
                    f"{name} is better than LoRA where following prompts counts as much",
                    "our reading of the same claim",
                    both,
                    {f"{name} - LoRA": less(method, "lora", "both")},
                ),
            )
        ),
        *(
            [
                row(
                    "DoRA's gain is larger at low rank",
                    DORA,
                    f"gain at {small:,} numbers, less that at {large:,}",
                    {"gap": gap},
                )
            ]
            if small != large
            else []
        ),
        row(
            "The rotational Spectral Adapter is the best at the smallest budget",
            SPECTRAL,
            f"subject fidelity at {small:,} numbers, less that of each other method",
            {f"- {it}": less("spectral-r", it, budget=small) for it in rivals},
        ),
        row(
            "LoKr is more faithful than LoRA, and LoRA than LoHa",
            LYCORIS,
            at,
            {"LoKr - LoRA": less("lokr", "lora"), "LoRA - LoHa": less("lora", "loha")},
        ),
        row(
            "LoHa keeps more diversity and follows prompts better than LoRA",
            LYCORIS,
            "diversity and prompt fidelity at all budgets that were measured",
            {"diversity": less("loha", "lora", "diversity"), "prompt": less("loha", "lora", "prompt")},
        ),
    ]
