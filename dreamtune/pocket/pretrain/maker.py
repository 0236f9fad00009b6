"""The stages of the pocket base, each with what it needs of the earlier ones."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from ..evaluators import Evaluators
from ..evaluators.networks import Finder, ImageText, Reader
from .config import PretrainConfig
from .data import HELD_OUT, RenderSet, base_scene, identity_scene, lone_scene, render_set, world_scene
from .evaluators import load_model, train_finder, train_image_text, train_reader
from .text import train_text_encoder
from .tokenizer import new_tokenizer
from .unet import train_unet
from .vae import finish_decoder, round_trip, train_vae
from .words import train_words


class Maker:
    """Runs stages and hands their results to the next ones; what was finished before is read from the work folder."""

    def __init__(self, config: PretrainConfig, work: Path, device: str) -> None:

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
        models = Finder(), Reader(), ImageText(self.config.text_width)
        for model, name in zip(models, ("finder", "reader", "image-text"), strict=True):
            load_model(model, self.work / name)
        return Evaluators(*models, self.text_encoder().cpu(), self.tokenizer)

    def vae(self) -> AutoencoderKL:
        """The trained VAE."""
        finished = self.work / "decoder" / "model"
        vae = AutoencoderKL.from_pretrained(finished if finished.exists() else self.work / "vae" / "model")
        return vae.float().to(self.device).eval().requires_grad_(False)

    def text_encoder(self) -> CLIPTextModel:
        """The trained text encoder: that of the last finished of its two stages."""
        finished = self.work / "words" / "model"
        encoder = CLIPTextModel.from_pretrained(finished if finished.exists() else self.work / "text" / "model")
        return encoder.float().to(self.device).eval()  # pyright: ignore[reportArgumentType]

    def run(self, stage: str) -> None:
        """Run one stage to the end of its budget."""
        if stage == "vae":
            train_vae(self.config, self.world(), self.world(held_out=True), self.work, self.device)
        elif stage == "decoder":
            finish_decoder(self.config, self.vae(), self.world(), self.world(held_out=True), self.work, self.device)
        elif stage == "text":
            texts = [c for row in self.world().captions for c in row]
            train_text_encoder(self.config, self.tokenizer, texts, self.work, self.device)
        elif stage == "words":
            self._run_words()
        elif stage in ("finder", "reader", "image-text"):
            self._run_evaluator(stage)
        else:
            parts = (self.vae(), self.text_encoder(), self.tokenizer)
            train_unet(self.config, self.base_pictures(), *parts, self.work, self.device)

    def _run_words(self) -> None:

        start = self.work / "unet" / "start"
        reader = UNet2DConditionModel.from_pretrained(start).float() if start.exists() else None
        encoder = CLIPTextModel.from_pretrained(self.work / "text" / "model").float()
        train_words(self.config, encoder, reader, self.tokenizer, self.work)

    def _run_evaluator(self, stage: str) -> None:

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
