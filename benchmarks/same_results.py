"""python -m benchmarks.same_results WORK [--against FILE]: whether a change of the code changes any result.

Runs 12 short trainings, 6 fusions, 20 pictures and 4 reports on the embedded base through the command line, and writes
WORK/results.json with a hash of each: of an adapter's tensors and description, of a picture's pixels, of a report's
figures. Run it in the checkout before and after a change that must leave results alone; `--against` compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from dreamtune.pocket import photographs
from dreamtune.pocket.world import random_subject

_SHORT = ("--steps", "4", "--set", "prior_images=4", "--set", "sampling_steps=2", "--set", "checkpoint_every=0")
METHODS = ("lora", "dora", "lora-dash", "spectral-a", "spectral-r", "loha", "lokr", "orthogonal", "full")
VARIANTS = {
    "text": ("--set", "text_encoder=true", "--set", "pivotal=2", "--set", "optimizer=adamw", "--token", "zwx"),
    "composed": ("--set", "compose=0.5", "--set", "masks=auto", "--token", "brul"),
    "usual": ("--set", "targets=attn", "--set", "masks=true", "--set", "prior=false", "--set", "snr_gamma=5"),
}
FUSIONS = {
    "sum": ("lora:0.8", "dora"),
    "ties": ("lora", "loha"),
    "tsv": ("lora", "dora:0.5", "text"),
    "knots": ("lora", "composed"),
    "gradient": ("lora", "text"),
    "magnitude": ("lokr", "full"),
}
_PLACES = ("lora.safetensors@0,0,0.5,1=a sks dog", "text.safetensors@0.5,0,1,1=a zwx dog")
_BOTH = ("--prompt", "a sks dog on the left and a zwx dog on the right")
PICTURES = {
    "one": ("--adapter", "lora.safetensors", "--prompt", "a sks dog on the beach", "--n", "4"),
    "two": ("--adapter", "lora.safetensors:0.7", "--adapter", "text.safetensors@0-0.5", *_BOTH, "--n", "2"),
    "switch": ("--adapter", "lora.safetensors", "--adapter", "dora.safetensors", "--mode", "switch", *_BOTH),
    "composite": ("--adapter", "lora.safetensors", "--adapter", "dora.safetensors", "--mode", "composite", *_BOTH),
    "regions": ("--region", _PLACES[0], "--region", _PLACES[1], "--prompt", "two dogs in the snow", "--n", "2"),
    "blend": ("--region", _PLACES[0], "--region", _PLACES[1], "--prompt", "two dogs", "--mode", "blend"),
    "collage": ("--region", _PLACES[0], "--region", _PLACES[1], "--prompt", "two dogs", "--mode", "collage"),
    "layout": ("--adapter", "lora.safetensors", "--adapter", "text.safetensors", *_BOTH, "--layout", "auto"),
    "euler": ("--adapter", "lokr.safetensors", "--prompt", "a sks dog", "--scheduler", "euler", "--negative", "snow"),
    "grid": ("--adapter", "lora.safetensors", "--prompt", "a sks dog", "--grid", "strength=0,1", "--n", "1"),
    "base": ("--prompt", "a cat in the city", "--n", "2", "--seed", "7"),
    "weights": ("--prompt", "a (red:1.4) boat", "--prompt-weights", "--n", "2"),
}
_OWN = {"lora-dash": ("--set", "method_options.launch_step=2")}
"""Options of methods."""
REPORTS = {
    "analyze": ("analyze", "lora.safetensors", "dora.safetensors", "--top-k", "4", "--timestep-profile"),
    "alone": ("analyze", "lokr.safetensors", "full.safetensors", "--no-interference"),
    "evaluate": ("evaluate", "lora.safetensors", "--images", "photos", "--n", "1", "--steps", "4"),
    "evaluate-text": ("evaluate", "text.safetensors:0.5", "--images", "photos", "--n", "1", "--steps", "4"),
}
_NOW = {"accumulation": "gradient_accumulation_steps"}
"""Former name of a setting in adapter files -> its name."""
_TOLD = {"seconds", "advice", "remarks", "sha256"}
"""Keys of reports that differ from run to run, sentences, and hashes of files, which names of settings are in."""


def run(*arguments: str, cwd: Path) -> None:
    """One command line of the program that `python -m` finds from here."""
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-m", "dreamtune.pipelines.cli", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "DREAMTUNE_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise SystemExit(f"dreamtune {' '.join(arguments)}\n{found.stderr[-2000:]}")


def adapter_hash(file: Path) -> str:
    """Of tensors and description; renamed settings count by their present names."""
    digest = hashlib.sha256()
    with safe_open(file, "pt") as tensors:
        about = {key: _renamed(_parsed(text)) for key, text in tensors.metadata().items()}
        digest.update(json.dumps(about, sort_keys=True).encode())
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name).contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_NOW.get(key, key): _renamed(one) for key, one in value.items() if key != "sha256"}
    return [_renamed(one) for one in value] if isinstance(value, list) else value


def report_hash(file: Path) -> str:
    """Of all that does not differ from run to run."""
    return hashlib.sha256(json.dumps(_lasting(json.loads(file.read_text())), sort_keys=True).encode()).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in _TOLD}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def results(work: Path) -> Iterator[tuple[str, str]]:
    """Name and hash of each result, made in `work`, which is empty."""
    photos = work / "photos"
    photos.mkdir(parents=True)
    for i, photo in enumerate(photographs(random_subject(random.Random(3), "dog"), 4, seed=3)):
        photo.save(photos / f"{i}.png")
    for name, options in {**{it: ("--method", it, *_OWN.get(it, ())) for it in METHODS}, **VARIANTS}.items():
        run("train", "photos", "--class", "dog", "--name", name, *_SHORT, *options, cwd=work)
        (work / "runs" / name / "adapter.safetensors").rename(work / f"{name}.safetensors")
        yield f"training {name}", adapter_hash(work / f"{name}.safetensors")
    for method, files in FUSIONS.items():
        named = [f"{name.partition(':')[0]}.safetensors{''.join(name.partition(':')[1:])}" for name in files]
        out, extra = f"fused-{method}.safetensors", ("--steps", "2") if method == "gradient" else ()
        run("fuse", *named, "--method", method, "--out", out, *extra, cwd=work)
        yield f"fusion {method}", adapter_hash(work / out)
    for name, options in PICTURES.items():
        count = () if "--n" in options else ("--n", "1")
        run("generate", "--out", name, "--steps", "6", *options, *count, cwd=work)
        for file in sorted((work / name).glob("*.png")):
            pixels = Image.open(file).convert("RGB")
            yield f"picture {name}/{file.name}", hashlib.sha256(pixels.tobytes()).hexdigest()
    for name, arguments in REPORTS.items():
        run(*arguments, "--out", f"report-{name}", cwd=work)
        yield f"report {name}", report_hash(work / f"report-{name}" / "report.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 if a result differs from those to compare with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--against", type=Path, help="results.json of another checkout")
    options = parser.parse_args(arguments)
    if options.work.exists():
        raise SystemExit(f"{options.work} is there: name a new folder")
    found = {}
    for name, digest in results(options.work.resolve()):
        found[name] = digest
        print(f"{digest[:16]}  {name}", flush=True)
    (options.work / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    if options.against is None:
        return 0
    other = json.loads(options.against.read_text())
    wrong = sorted(name for name in found.keys() | other.keys() if found.get(name) != other.get(name))
    print(f"{len(found)} results, {len(wrong)} differ", *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
