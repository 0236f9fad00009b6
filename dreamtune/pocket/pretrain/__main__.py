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
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import WEIGHTS, path
from .config import PretrainConfig
from .data import HELD_OUT, RenderSet, base_scene, identity_scene, lone_scene, render_set, world_scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from ..evaluators import Evaluators

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
    from ..world import CLASSES

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


class Maker:
    """Runs stages and hands their results to the next ones; what was finished before is read from the work folder."""

    def __init__(self, config: PretrainConfig, work: Path, device: str) -> None:
        from .tokenizer import new_tokenizer

        self.config, self.work, self.device = config, work, device
        self.tokenizer = new_tokenizer(config.max_tokens)

    def start_from(self, base: Path) -> None:
        """Take VAE and text encoder of the finished `base` as they are; its UNet and reader are trained on.

        A work folder that has parts of its own keeps them.
        """
        reader = self.work / "reader" / "start.safetensors"
        if not reader.exists():
            reader.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(base.parent / "evaluators" / "reader.safetensors", reader)
        for part, stage in (("vae", "vae/model"), ("text_encoder", "text/model"), ("unet", "unet/start")):
            if not (self.work / stage).exists():
                shutil.copytree(base / part, self.work / stage)
        shutil.copy2(base / "training.json", self.work / "earlier.json")

    def world(self, held_out: bool = False) -> RenderSet:
        """Pictures of the whole world."""
        c = self.config
        name, count, seed = ("world-held-out", c.held_out, 2) if held_out else ("world", c.world_pictures, 1)
        return render_set(self.work / "data", name, world_scene, count, seed + 10 * c.seed, c.size, c.captions)

    def base_pictures(self) -> RenderSet:
        """Pictures that the UNet learns from."""
        c = self.config
        make = partial(base_scene, classes=c.classes, sizes=c.sizes, pair_share=c.pair_share)
        return render_set(self.work / "data", "base", make, c.unet_pictures, 3 + 10 * c.seed, c.size, c.captions)

    def evaluator_pictures(self) -> RenderSet:
        """Pictures of the whole world that the evaluators learn from."""
        c = self.config
        return render_set(
            self.work / "data", "evaluators", world_scene, c.evaluator_pictures, 4 + 10 * c.seed, c.size, c.captions
        )

    def individuals(self) -> RenderSet:
        """`views` pictures of each of many individuals in a row, of all sizes, some with another beside them."""
        c = self.config
        make = partial(identity_scene, views=c.views, first=0)
        return render_set(self.work / "data", "individuals", make, c.individuals * c.views, 5 + 10 * c.seed, c.size, 1)

    def individuals_held_out(self, sizes: tuple[str, ...]) -> RenderSet:
        """The same of individuals that no evaluator has seen, each alone in its pictures, of one of `sizes`."""
        c = self.config
        make = partial(lone_scene, views=c.views, first=HELD_OUT, sizes=sizes)
        name, count = "individuals-" + "-".join(sizes), c.individuals_held_out * c.views
        return render_set(self.work / "data", name, make, count, 6 + 10 * c.seed, c.size, 1)

    def evaluators(self) -> Evaluators:
        """The finished evaluators."""
        from ..evaluators import Evaluators
        from ..evaluators.networks import Finder, ImageText, Reader
        from .evaluators import load_model

        models = Finder(), Reader(), ImageText(self.config.text_width)
        for model, name in zip(models, ("finder", "reader", "image-text"), strict=True):
            load_model(model, self.work / name)
        return Evaluators(*models, self.text_encoder().cpu(), self.tokenizer)

    def vae(self) -> AutoencoderKL:
        """The trained VAE."""
        from diffusers import AutoencoderKL

        finished = self.work / "decoder" / "model"
        vae = AutoencoderKL.from_pretrained(finished if finished.exists() else self.work / "vae" / "model")
        return vae.float().to(self.device).eval().requires_grad_(False)

    def text_encoder(self) -> CLIPTextModel:
        """The trained text encoder: that of the last finished of its two stages."""
        from transformers import CLIPTextModel

        finished = self.work / "words" / "model"
        encoder = CLIPTextModel.from_pretrained(finished if finished.exists() else self.work / "text" / "model")
        return encoder.float().to(self.device).eval()  # pyright: ignore[reportArgumentType]

    def run(self, stage: str) -> None:
        """Run one stage to the end of its budget."""
        if stage == "vae":
            from .vae import train_vae

            train_vae(self.config, self.world(), self.world(held_out=True), self.work, self.device)
        elif stage == "decoder":
            from .vae import finish_decoder

            finish_decoder(self.config, self.vae(), self.world(), self.world(held_out=True), self.work, self.device)
        elif stage == "text":
            from .text import train_text_encoder

            texts = [c for row in self.world().captions for c in row]
            train_text_encoder(self.config, self.tokenizer, texts, self.work, self.device)
        elif stage == "words":
            self._run_words()
        elif stage in ("finder", "reader", "image-text"):
            self._run_evaluator(stage)
        else:
            from .unet import train_unet

            parts = (self.vae(), self.text_encoder(), self.tokenizer)
            train_unet(self.config, self.base_pictures(), *parts, self.work, self.device)

    def _run_words(self) -> None:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        from .words import train_words

        start = self.work / "unet" / "start"
        reader = UNet2DConditionModel.from_pretrained(start).float() if start.exists() else None
        encoder = CLIPTextModel.from_pretrained(self.work / "text" / "model").float()
        train_words(self.config, encoder, reader, self.tokenizer, self.work)

    def _run_evaluator(self, stage: str) -> None:
        from ..evaluators.networks import Finder, Reader
        from .evaluators import load_model, train_finder, train_image_text, train_reader
        from .vae import round_trip

        c = self.config
        if stage == "reader":
            data = self.individuals()
            train_reader(c, data, round_trip(self.vae(), data, 2), c.views, self.work, self.device)
            return
        data = self.evaluator_pictures()
        images = round_trip(self.vae(), data, 2)
        if stage == "finder":
            train_finder(c, data, images, self.work, self.device)
        else:
            finder, reader = load_model(Finder(), self.work / "finder"), load_model(Reader(), self.work / "reader")
            train_image_text(
                c, data, images, finder, reader, self.text_encoder(), self.tokenizer, self.work, self.device
            )


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
        from .evaluators import NETWORKS
        from .export import export, export_evaluators

        export(maker, WEIGHTS)
        if all((args.work / name / "model.pt").exists() for name in NETWORKS):  # not when only the UNet went on
            export_evaluators(maker, WEIGHTS)


if __name__ == "__main__":
    main()
