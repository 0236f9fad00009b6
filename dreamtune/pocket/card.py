"""The model card of the embedded base: README.md beside the weights, written from what was recorded and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_GATES = {
    "context": (0.90, 0.98),
    "class": (0.60, 0.92),
    "color": (0.60, 0.92),
    "pattern": (None, 0.8),
    "hat": (None, None),
    "class_and_color": (None, None),
    "one_subject": (None, None),
    "pair_context": (None, None),
    "both_present": (None, 0.85),
    "left_right": (None, 0.8),
    "pair_colors": (None, None),
}
"""Figure -> (what a shipped base must reach, the goal with an accelerator); None where none is set."""


def write_card(weights: Path) -> Path:
    """Write `weights/README.md` from the JSON files beside it and return its path."""
    training = _read(weights / "base" / "training.json")
    base = _read(weights / "base" / "evaluation.json")
    evaluators = _read(weights / "evaluators" / "evaluation.json")
    card = weights / "README.md"
    parts = [_HEAD, _data(training["config"]), _training(training), _base(base), _evaluators(evaluators), _LIMITS]
    card.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return card


_HEAD = """# pocket: the embedded base of dreamtune

A Stable Diffusion in miniature (StableDiffusionPipeline: AutoencoderKL, CLIPTextModel, UNet2DConditionModel with
cross-attention at every level, v-prediction on zero-terminal-SNR noise), and the evaluators that judge pictures of
its world. Nothing was downloaded: all weights were trained from random values on pictures that dreamtune draws
itself. `python -m dreamtune.pocket.pretrain --export` remakes them; `python -m dreamtune.pocket.evaluate --write`
measures them and writes this card. License: Apache-2.0."""

_LIMITS = """## Limits

* It knows the drawn world and nothing else. Other words than those of `dreamtune.pocket.world.vocabulary()` are read
  letter by letter and mean nothing to it.
* Only the classes listed under Data are drawn; the renderer and the evaluators know all of the world.
* It exists to run, test and compare methods anywhere. Figures on it rank methods on this world; they do not predict
  figures on photographs."""


def _data(c: dict[str, Any]) -> str:
    return f"""## Data

{c["unet_pictures"]:,} rendered scenes of {c["size"]}×{c["size"]} pixels, {c["captions"]} captions each, for the UNet:
classes {", ".join(c["classes"])}; subject sizes {", ".join(dict.fromkeys(c["sizes"]))};
{c["pair_share"]:.0%} with two subjects; all contexts, colours, patterns and hats.
The VAE and the text encoder learned from {c["world_pictures"]:,} scenes of the whole world,
the evaluators from {c["evaluator_pictures"]:,} scenes and from {c["individuals"]:,} individuals with
{c["views"]} pictures each."""


def _training(training: dict[str, Any]) -> str:
    title = "## Training"
    if training["continued_from"]:
        title = _training(training["continued_from"]) + "\n\n### Continued"
    rows = [
        title,
        "",
        f"On {training['device']}, torch {training['torch']}, seed {training['config']['seed']}.",
        "",
        "| stage | minutes | steps | samples | last values |",
        "|---|---|---|---|---|",
    ]
    for name, stage in training["stages"].items():
        last = {k: v for k, v in stage["curve"][-1].items() if k not in ("step", "samples", "seconds")}
        values = ", ".join(f"{k} {v:.3g}" for k, v in last.items())
        rows.append(f"| {name} | {stage['minutes']} | {stage['steps']:,} | {stage['samples']:,} | {values} |")
    return "\n".join([*rows, "", "Curves and the complete configuration: base/training.json."])


def _base(figures: dict[str, Any]) -> str:
    how = f"{figures['steps']} steps, guidance {figures['guidance']}, seed {figures['seed']}"
    rows = [
        "## What the base draws",
        "",
        f"{figures['prompts']} fixed prompts, {how}, read by the evaluators (`make pocket-eval`):",
        "",
        "| share of prompts | reached | must | goal |",
        "|---|---|---|---|",
    ]
    for name, (least, goal) in _GATES.items():
        if name in figures["shares"]:
            reached = f"{figures['shares'][name]:.3f}"
            rows.append(f"| {name.replace('_', ' ')} | {reached} | {_gate(least)} | {_gate(goal)} |")
    psnr = figures["vae_psnr"]
    rows += ["", f"VAE, scenes of the whole world: {psnr['all']} dB overall (must 27, goal 31), "]
    rows[-1] += f"{psnr['inside_subjects']} dB inside subjects (must 27)."
    return "\n".join(rows)


def _evaluators(figures: dict[str, Any]) -> str:
    reading, identity, image_text = figures["reading"], figures["identity"], figures["image_text"]
    any_size = figures["identity_any_size"]
    rows = [
        "## Evaluators",
        "",
        f"On {figures['pictures']:,} held-out scenes of the whole world after a round trip through the VAE; attributes "
        "of the subjects that were found; of a striped subject's two colours either counts as its own:",
        "",
        "| | " + " | ".join(n.replace("_", " ") for n in reading) + " |",
        "|---" * (len(reading) + 1) + "|",
        "| share | " + " | ".join(f"{v:.3f}" for v in reading.values()) + " |",
        "",
        f"Identity, {identity['individuals']} held-out individuals, as photographs show them: {_verified(identity)}",
        f"The same, small ones included: {_verified(any_size)}",
        "",
        "Image-text encoder: a picture is nearer to its caption than to the caption with one word changed, by kind of "
        "word: " + ", ".join(f"{k} {v:.3f}" for k, v in image_text.items()) + ".",
    ]
    return "\n".join(rows)


def _verified(figures: dict[str, Any]) -> str:
    strangers, twins = (figures[f"accepted_at_1pct_{who}"] for who in ("strangers", "look_alikes"))
    return (
        f"{strangers:.1%} of pairs of the same individual are accepted at the threshold that accepts 1 % of strangers, "
        f"{twins:.1%} at the one that accepts 1 % of look-alikes (same class, colours, pattern and hat colour), "
        f"{figures['accepted_at_1pct_of_all_look_alikes']:.1%} when the {figures['pairs_not_apart']} of "
        f"{figures['individuals'] // 2:,} pairs that no eye tells apart count too; "
        f'"the same one, or a look-alike?" is answered rightly in {figures["right_of_look_alikes"]:.1%}.'
    )


def _gate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
