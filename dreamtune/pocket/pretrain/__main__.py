"""Make the pocket base from nothing: `python -m dreamtune.pocket.pretrain --work DIR`.

Stages vae -> text -> words -> decoder -> unet -> finder -> reader -> image-text, each time-boxed, checkpointed and
resumable: run the same command again after an interruption. `--stages` picks some of them, `--export` puts the finished
parts into the package.
"""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from .. import WEIGHTS, path
from ..world import CLASSES
from .config import PretrainConfig
from .evaluators import NETWORKS
from .export import export, export_evaluators
from .maker import Maker

STAGES = ("vae", "text", "words", "decoder", "unet", "finder", "reader", "image-text")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dreamtune.pocket.pretrain", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("pocket-work"), help="folder for data and checkpoints")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, in any order")
    parser.add_argument("--minutes", default="", help="budgets, e.g. vae=10,unet=60 (each stage has a default)")
    parser.add_argument("--classes", default="", help="classes the UNet learns, comma-separated, or 'all'")
    parser.add_argument(
        "--set", default="", help="other sizes, e.g. batch_size=1024,unet_pictures=250000 (PretrainConfig's numbers)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument("--from-shipped", action="store_true", help="start from the shipped base: its VAE stays")
    parser.add_argument("--export", action="store_true", help="write the finished parts into dreamtune/pocket/weights")
    return parser.parse_args()


def _config(args: argparse.Namespace) -> PretrainConfig:
    config = PretrainConfig(seed=args.seed)
    minutes = dict(config.minutes)
    for item in filter(None, args.minutes.split(",")):
        name, _, value = item.partition("=")
        if name not in minutes:
            raise SystemExit(f"--minutes: unknown stage {name!r}; stages are {', '.join(STAGES)}")
        minutes[name] = float(value)
    classes = config.classes
    if args.classes:
        classes = CLASSES if args.classes == "all" else tuple(args.classes.split(","))
    return dataclasses.replace(config, minutes=minutes, classes=classes, **_numbers(config, args.set))


def _numbers(config: PretrainConfig, text: str) -> dict[str, Any]:
    """What `--set` asks for; each number as the kind that its default is."""
    chosen: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        default = getattr(config, name, None)
        if not isinstance(default, int | float):
            known = ", ".join(k for k, v in dataclasses.asdict(config).items() if isinstance(v, int | float))
            raise SystemExit(f"--set: {name!r} is no number of the configuration; those are {known}")
        try:
            chosen[name] = type(default)(value)
        except ValueError:
            raise SystemExit(f"--set: {name} is {value!r}, not a number like {default}") from None
    return chosen


def main() -> None:
    """Entry point."""
    args = _arguments()
    config = _config(args)
    stages = args.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        raise SystemExit(f"--stages: unknown {sorted(unknown)}; stages are {', '.join(STAGES)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    maker = Maker(config, args.work, args.device)
    if args.from_shipped:
        maker.start_from(path())
    for stage in (s for s in STAGES if s in stages):
        maker.run(stage)
    if args.export:
        export(maker, WEIGHTS)
        if all((args.work / name / "model.pt").exists() for name in NETWORKS):  # not when only the UNet went on
            export_evaluators(maker, WEIGHTS)


if __name__ == "__main__":
    main()
