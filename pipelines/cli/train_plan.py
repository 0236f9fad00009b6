"""What `dreamtune train --dry-run` shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreamtune.pipelines import console
from dreamtune.training.config import TrainConfig

if TYPE_CHECKING:
    from dreamtune.pipelines.train.plan import PlanResult


def show_plan(config: TrainConfig, folder: Path, as_json: bool) -> None:
    """Measure, and show what a training would do and cost."""
    from dreamtune.pipelines.train.plan import plan

    with console.stdout_kept():
        planned = plan(config, folder)
    if as_json:
        console.print_json(planned.to_dict())
    else:
        _show(planned)


def _show(result: PlanResult) -> None:
    from dreamtune.pipelines.output import human
    from dreamtune.pipelines.progress import clock

    config, shapes = result.config, ", ".join(f"{w}x{h}: {n}" for w, h, n in result.buckets)
    left_out = f"; skipped: {', '.join(result.skipped)}" if result.skipped else ""
    prior = (
        "the base's own prediction" if config.prior_from == "prediction" else f"{result.class_pictures} class images"
    )
    console.say(f"run         {result.run}, not written")
    console.say(f"base        {result.base} ({result.family}) on {result.device}, {config.precision}")
    console.say(f"images      {result.pictures}{left_out}")
    console.say(f"shapes      {shapes}")
    console.say(f"captions    {_captions(result)}")
    console.say(f"prior       {prior if config.prior else 'none'}")
    if config.compose:
        beside = f"{result.composites}, beside {', '.join(config.other_things)}"
        console.say(f"composites  {beside}: {config.compose:.0%} of the images seen")
    each = f"{config.batch_size} x {config.gradient_accumulation_steps}"
    console.say(f"steps       {config.steps} of {result.batch} images ({each})")
    console.say(f"epoch       {result.steps_per_epoch:g} steps; each image is seen {result.epochs:g} times")
    console.say(f"method      {config.method}, rank {config.rank}, alpha {config.alpha:g}: scale {result.scale:g}")
    console.say(f"trained     {result.parameters} parameters in {result.layers} layers ({config.targets})")
    console.say(
        f"lr          {config.lr:g}, {config.optimizer}, {config.lr_schedule}, {config.warmup_steps} steps of warm-up"
    )
    if loss := _loss(config):
        console.say(f"loss        {', '.join(loss)}")
    console.say(f"time        {result.seconds_per_step:.3g} s per step, {clock(result.seconds)} for all steps")
    console.say(f"memory      {human(result.memory)} at most in the two measured steps")
    console.say(f"disk        {human(result.disk)} for the run, {human(result.cache)} in the cache; ", end="")
    console.say(f"{human(result.disk_free)} free")
    if result.disk + result.cache > result.disk_free:
        console.say("remark      not enough disk space: free some, or keep fewer checkpoints")


def _captions(result: PlanResult) -> str:
    several = ", one at random each time an image is seen" if result.captions > 1 else ""
    dropped = result.config.caption_dropout
    return f"{result.captions}{several}{f'; dropped {dropped:.0%} of the time' if dropped else ''}"


def _loss(config: TrainConfig) -> list[str]:
    """Settings of the loss that differ from the defaults."""
    weights = "debiased estimation" if config.debiased else f"min-SNR {config.snr_gamma:g}" if config.snr_gamma else ""
    end = "the last" if config.timestep_max is None else config.timestep_max - 1
    steps = f"timesteps {config.timestep_min} to {end}" if config.timestep_min or config.timestep_max else ""
    return [part for part in (weights, steps) if part]
