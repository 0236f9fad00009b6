"""`dreamtune train`."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer.core
from typer import Argument, Option

from dreamtune.errors import ConfigError
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.cli.options import Json, Queue

if TYPE_CHECKING:
    from dreamtune.pipelines.train.plan import PlanResult
    from dreamtune.pipelines.train.run import TrainResult
    from dreamtune.training.config import TrainConfig


class WithSettings(typer.core.TyperCommand):
    """A command whose --help ends with every setting of a recipe; they are looked up only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        from dreamtune.training.reference import settings_lines

        super().format_help(ctx, formatter)
        console.say("Settings for --set and recipes, and their defaults:\n")
        for line in settings_lines():
            console.say(textwrap.fill(line, shutil.get_terminal_size().columns, subsequent_indent="    "))


def train(
    images: Annotated[
        Path | None, Argument(metavar="IMAGES_DIR", help="Folder with 3 to 30 pictures of the subject.")
    ] = None,
    class_word: Annotated[str | None, Option("--class", help="What the subject is: dog, backpack, ...")] = None,
    token: Annotated[str | None, Option(help="Rare word that will mean the subject (sks).")] = None,
    base: Annotated[
        str | None, Option(help="pocket, a diffusers folder, a .safetensors checkpoint, or a hub id (pocket).")
    ] = None,
    method: Annotated[
        str | None, Option(help="lora, dora, lora-dash, spectral-a, spectral-r, loha, lokr, orthogonal, full (lora).")
    ] = None,
    rank: Annotated[int | None, Option(help="Rank of the change per layer (the method's own).")] = None,
    alpha: Annotated[float | None, Option(help="The change is scaled by alpha/rank (alpha = rank).")] = None,
    steps: Annotated[int | None, Option(help="Optimizer steps (what suits the base).")] = None,
    lr: Annotated[float | None, Option(help="Learning rate (what suits the base).")] = None,
    seed: Annotated[int | None, Option(help="The same seed gives the same adapter (0).")] = None,
    prior: Annotated[
        bool | None, Option("--prior/--no-prior", help="Keep the meaning of the class by pictures of it (on).")
    ] = None,
    strict: Annotated[
        bool | None, Option("--strict", help="Stop at a picture that cannot be used, instead of leaving it out.")
    ] = None,
    score_every: Annotated[
        int | None, Option(help="Judge the adapter by pictures every so many steps, and name the best (0: never).")
    ] = None,
    keep: Annotated[str | None, Option(help="Which step becomes the adapter: last or best (last).")] = None,
    early_stop: Annotated[
        int | None, Option(help="Stop when so many scores in a row bring nothing better (0: never).")
    ] = None,
    track_tsd: Annotated[
        int | None, Option("--track-tsd", help="Write down the directions changed most every so many steps (0: never).")
    ] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps (auto).")] = None,
    name: Annotated[str | None, Option(help="Name of the run, in the folder runs (IMAGES_DIR-METHOD).")] = None,
    out: Annotated[Path | None, Option(help="Run folder, if it shall be elsewhere.")] = None,
    config: Annotated[Path | None, Option(help="YAML recipe; options given here win over it.")] = None,
    settings: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Any setting of a recipe.")] = None,
    resume: Annotated[
        Path | None,
        Option(
            metavar="RUN_DIR",
            help="Go on with this run; with --steps for longer, with IMAGES_DIR or --base where these lie now.",
        ),
    ] = None,
    start_from: Annotated[
        Path | None, Option(metavar="ADAPTER", help="Begin at the change of this adapter file, of any known tool.")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything, measure two steps, say what it would take; write nothing.")
    ] = False,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Train an adapter on a folder of pictures of one subject."""
    from dreamtune.pipelines.train.options import run_folder, train_config

    options = {
        "images": images,
        "class_word": class_word,
        "token": token,
        "base": base,
        "method": method,
        "rank": rank,
        "alpha": alpha,
        "steps": steps,
        "lr": lr,
        "seed": seed,
        "prior": prior,
        "strict": strict,
        "score_every": score_every,
        "keep": keep,
        "early_stop": early_stop,
        "track_tsd": track_tsd,
        "device": device,
        "start_from": start_from,
    }
    given = {key: value for key, value in options.items() if value is not None}
    complete = train_config(given, settings or [], recipe=config, resume=resume)
    folder = run_folder(complete, name=name, out=out, resume=resume)

    if resume is not None and (dry_run or queue):
        given_too = "--dry-run" if dry_run else "--queue"
        raise ConfigError(f"{given_too} is for a new run, not for one to resume: leave one of them away")
    if dry_run and queue:
        raise ConfigError("--dry-run writes nothing, not even into the queue of --queue: leave one of them away")
    if dry_run:
        from dreamtune.pipelines.train.plan import plan

        with console.stdout_kept():
            planned = plan(complete, folder)
        if as_json:
            console.print_json(planned.to_dict())
        else:
            show_plan(planned)
        return

    if queue:
        enqueue("train", complete, folder, as_json)
        return

    from dreamtune.pipelines.train.run import train as run
    from dreamtune.training.launched import is_first

    with console.stdout_kept():
        result = run(complete, folder, resume=resume is not None)
    if not is_first():
        return
    if as_json:
        console.print_json(result.to_dict())
    else:
        show(result)


def show(result: TrainResult) -> None:
    """Where the adapter is, and how to use it."""
    loss = "" if result.final_loss is None else f", loss {result.final_loss:.4f}"
    console.say(f"{result.adapter}  ({result.steps} steps, {result.seconds:.0f} s{loss})")
    if result.best_step is not None:
        kept = "which is kept" if result.kept_step == result.best_step else f"in {result.run / 'best.safetensors'}"
        console.say(f"The best step is {result.best_step}, {kept}; the curve: {result.run / 'curve.png'}")
    console.say(f'Try: dreamtune generate --adapter {result.adapter} --prompt "{result.example}" --out pictures')


def show_plan(result: PlanResult) -> None:
    """What would be done, and what it would take."""
    from dreamtune.pipelines.output import human
    from dreamtune.pipelines.progress import clock

    config, shapes = result.config, ", ".join(f"{w}x{h}: {n}" for w, h, n in result.buckets)
    left_out = f"; left out: {', '.join(result.skipped)}" if result.skipped else ""
    prior = "the base's own prediction" if config.prior_from == "prediction" else f"{result.class_pictures} pictures"
    console.say(f"run         {result.run}, not written")
    console.say(f"base        {result.base} ({result.family}) on {result.device}, {config.precision}")
    console.say(f"pictures    {result.pictures}{left_out}")
    console.say(f"shapes      {shapes}")
    console.say(f"captions    {_captions(result)}")
    console.say(f"prior       {prior if config.prior else 'none'}")
    if config.compose:
        beside = f"{result.composites}, beside {', '.join(config.other_things)}"
        console.say(f"composites  {beside}: {config.compose:.3g} of the times")
    console.say(f"steps       {config.steps} of {result.batch} pictures ({config.batch_size} x {config.accumulation})")
    console.say(f"epoch       {result.steps_per_epoch:g} steps; each picture is seen {result.epochs:g} times")
    console.say(f"method      {config.method}, rank {config.rank}, alpha {config.alpha:g}: scale {result.scale:g}")
    console.say(f"trained     {result.parameters} numbers in {result.layers} layers ({config.targets})")
    console.say(
        f"lr          {config.lr:g}, {config.optimizer}, {config.lr_schedule}, {config.warmup_steps} steps of warm-up"
    )
    if loss := _loss(config):
        console.say(f"loss        {', '.join(loss)}")
    console.say(f"time        {result.seconds_per_step:.3g} s a step, {clock(result.seconds)} for all steps")
    console.say(f"memory      {human(result.memory)} at most in the probe")
    console.say(f"disk        {human(result.disk)} for the run, {human(result.cache)} in the cache; ", end="")
    console.say(f"{human(result.disk_free)} are free")
    if result.disk + result.cache > result.disk_free:
        console.say("remark      the disk is too small: make room, or keep fewer checkpoints")


def _captions(result: PlanResult) -> str:
    several = ", one of its own each time a picture is seen" if result.captions > 1 else ""
    dropped = result.config.caption_dropout
    return f"{result.captions}{several}{f'; none {dropped:.3g} of the times' if dropped else ''}"


def _loss(config: TrainConfig) -> list[str]:
    """What is not as usual in the loss."""
    weights = "debiased estimation" if config.debiased else f"min-SNR {config.snr_gamma:g}" if config.snr_gamma else ""
    end = "the last" if config.timestep_max is None else config.timestep_max - 1
    steps = f"timesteps {config.timestep_min} to {end}" if config.timestep_min or config.timestep_max else ""
    return [part for part in (weights, steps) if part]
