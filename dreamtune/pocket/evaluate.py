"""Measure the embedded base: `python -m dreamtune.pocket.evaluate [--write]`.

400 fixed prompts are drawn from one fixed seed and read by the evaluators. The figures are printed as a table and as
JSON; `--write` stores them with the weights (evaluation.json) and renews the model card.
"""

# diffusers annotates results more narrowly than it returns.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from . import WEIGHTS, path
from .card import write_card
from .evaluators import Evaluators, Reading
from .pretrain.unet import save_grid
from .world import COLORS, CONTEXTS, HAT_CLASSES, random_scene, render

SINGLES, PAIRS = 250, 150
PICTURES = SINGLES + PAIRS
STEPS, GUIDANCE = 20, 4.0
"""Of the exam that stands in the card: fixed, so that cards of all bases can be compared. How pocket draws for people
is in models.families."""
_BATCH = 50


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for of one subject."""

    cls: str
    color: str
    pattern: str | None = None
    hat: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt and what a picture must show for it; of two subjects the first is to stand on the left."""

    text: str
    context: str
    subjects: tuple[Wanted, ...]


def fixed_prompts(classes: Sequence[str], seed: int = 2026) -> list[Prompt]:
    """The 400 prompts, over the classes that the base knows: 250 with one subject, 150 with two."""
    rng = Random(f"prompts {seed}")
    colors, contexts = list(COLORS), list(CONTEXTS)
    prompts: list[Prompt] = []
    for _ in range(SINGLES):
        cls, color, context = rng.choice(classes), rng.choice(colors), rng.choice(contexts)
        pattern = rng.choice(["striped", "spotted"]) if rng.random() < 0.5 else None
        hat = rng.choice(colors) if cls in HAT_CLASSES and rng.random() < 0.35 else None
        text = " ".join(w for w in (pattern, color, cls) if w)
        if hat:
            text += f" wearing {_article(hat)} {hat} hat"
        prompts.append(
            Prompt(f"{_article(text)} {text} {CONTEXTS[context]}", context, (Wanted(cls, color, pattern, hat),))
        )
    for _ in range(PAIRS):
        first, second = rng.sample(list(classes), 2)
        a, b = rng.sample(colors, 2)
        context = rng.choice(contexts)
        text = f"{_article(a)} {a} {first} on the left and {_article(b)} {b} {second} on the right {CONTEXTS[context]}"
        prompts.append(Prompt(text, context, (Wanted(first, a), Wanted(second, b))))
    return prompts


def score(prompts: Sequence[Prompt], readings: Sequence[Reading]) -> dict[str, float]:
    """Shares of prompts fulfilled; each over the prompts that ask for it."""
    right: dict[str, list[bool]] = {}

    def note(name: str, value: bool) -> None:
        right.setdefault(name, []).append(value)

    for prompt, reading in zip(prompts, readings, strict=True):
        if len(prompt.subjects) == 1:
            wanted, found = prompt.subjects[0], reading.main
            note("context", reading.context == prompt.context)
            note("class", found.cls == wanted.cls)
            note("color", wanted.color in found.colors)
            note("class_and_color", found.cls == wanted.cls and wanted.color in found.colors)
            note("one_subject", len(reading.subjects) == 1)
            if wanted.pattern:
                note("pattern", found.pattern == wanted.pattern)
            if wanted.hat:
                note("hat", found.hat == wanted.hat)
            continue
        note("pair_context", reading.context == prompt.context)
        left, right_side = prompt.subjects
        both = sorted(s.cls for s in reading.subjects) == sorted((left.cls, right_side.cls))
        note("both_present", both)
        note("left_right", [s.cls for s in reading.subjects] == [left.cls, right_side.cls])
        pairs = list(zip(prompt.subjects, reading.subjects, strict=False))
        note("pair_colors", len(pairs) == 2 and all(f.cls == w.cls and w.color in f.colors for w, f in pairs))
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


def draw(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int = 0) -> np.ndarray:
    """(n, h, w, 3) uint8 pictures by plain diffusers; picture i starts from the noise of seed + i."""
    parts = []
    for i in range(0, len(prompts), _BATCH):
        batch = list(prompts[i : i + _BATCH])
        generators = [torch.Generator().manual_seed(seed + i + j) for j in range(len(batch))]
        parts.append(
            pipeline(
                batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="np"
            ).images
        )
    return (np.concatenate(parts) * 255).round().astype(np.uint8)


def vae_psnr(vae: AutoencoderKL, size: int, seed: int = 2026) -> dict[str, float]:
    """PSNR in dB of 400 scenes of the whole world after a round trip: over all pixels, and inside subject masks."""
    rng = Random(f"scenes {seed}")
    rendered = [render(random_scene(rng), size) for _ in range(PICTURES)]
    images = torch.from_numpy(np.stack([r.image for r in rendered])).permute(0, 3, 1, 2).float() / 127.5 - 1
    masks = torch.from_numpy(np.stack([r.masks.any(0) for r in rendered]))
    errors = []
    with torch.no_grad():
        for x in images.to(vae.device).split(_BATCH):
            y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            errors.append(((y - x) / 2).square().mean(1).cpu())
    error = torch.cat(errors)
    decibels = {"all": error.mean(), "inside_subjects": error[masks].mean()}
    return {name: round(-10 * float(value.log10()), 2) for name, value in decibels.items()}


def evaluate(base: Path, seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """The figures of the base in folder `base`, and the 400 pictures."""
    began = time.perf_counter()
    config = json.loads((base / "training.json").read_text())["config"]
    classes = config["classes"]
    prompts = fixed_prompts(classes)
    pipeline = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)
    pictures = draw(pipeline, [p.text for p in prompts], seed)
    readings = Evaluators.load().read(pictures)
    figures: dict[str, Any] = {
        "prompts": len(prompts),
        "classes": classes,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "seed": seed,
        "shares": score(prompts, readings),
        "vae_psnr": vae_psnr(pipeline.vae, config["size"]),
        "seconds": round(time.perf_counter() - began, 1),
    }
    return figures, pictures


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m dreamtune.pocket.evaluate", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the figures with the weights and renew the card")
    parser.add_argument("--grid", type=Path, help="write the first 96 pictures as one PNG")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; the prompts stay")
    args = parser.parse_args()
    base = path()
    figures, pictures = evaluate(base, args.seed)
    for name, value in figures["shares"].items():
        print(f"{name:16} {value:.3f}")
    for name, value in figures["vae_psnr"].items():
        print(f"{'VAE ' + name:20} {value:.1f} dB")
    print(json.dumps(figures))
    if args.grid:
        save_grid(np.concatenate([pictures[:48], pictures[SINGLES : SINGLES + 48]]), 12, args.grid)
    if args.write:
        (base / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n")
        write_card(WEIGHTS)


def _article(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


if __name__ == "__main__":
    main()
