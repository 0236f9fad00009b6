"""`dreamtune train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic.fields import FieldInfo
from typer import Option

from dreamtune.errors import ConfigError
from dreamtune.names import METHODS
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json, Queue, options_of
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.cli.train_plan import show_plan
from dreamtune.pipelines.train.options import run_folder, train_config
from dreamtune.training.config import TrainConfig
from dreamtune.training.presets import PRESETS
from dreamtune.training.reference import show as as_yaml

if TYPE_CHECKING:
    from dreamtune.pipelines.train.run import TrainResult

_PANELS = {
    "images": "Subject",
    "compose": "Composites",
    "method": "Adapter",
    "steps": "Optimization",
    "precision": "Device",
    "resolution": "Images",
    "prior": "Prior preservation",
    "checkpoint_every": "Checkpoints, samples and scores",
}
"""First setting of each group -> its heading."""


def _default(name: str, field: FieldInfo) -> str:
    """The default and what the presets of bases have instead, as in the table of settings."""
    own = [] if field.is_required() else [as_yaml(field.get_default(call_default_factory=True))]
    own += [f"{family} {as_yaml(row[name])}" for family, row in PRESETS.items() if name in row]
    return "; ".join(own) if own != ["none"] else ""


@options_of(
    TrainConfig,
    flags={"class_word": "--class"},
    metavars={"images": "IMAGES_DIR", "start_from": "ADAPTER"},
    choices={"method": METHODS},
    panels=_PANELS,
    argument="images",
    defaults=_default,
)
def train(
    given: dict[str, Any],
    name: Annotated[str | None, Option(help="Name of the run. (IMAGES_DIR-METHOD)")] = None,
    out: Annotated[Path | None, Option(help="Run folder. (runs/NAME)")] = None,
    config: Annotated[Path | None, Option(help="YAML recipe; options on the command line override it.")] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Set any key of a recipe, e.g. method_options.dropout=0.1."),
    ] = None,
    resume: Annotated[
        Path | None,
        Option(
            metavar="RUN_DIR",
            help="Resume this run; --steps extends it, IMAGES_DIR and --base say where these are now.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything, time two steps, show the cost. Writes nothing.")
    ] = False,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Train an adapter on a folder of images of one subject."""
    complete = train_config(given, settings or [], recipe=config, resume=resume)
    folder = run_folder(complete, name=name, out=out, resume=resume)
    if resume is not None and (dry_run or queue):
        raise ConfigError(f"{'--dry-run' if dry_run else '--queue'} is for a new run: it cannot be used with --resume")
    if dry_run and queue:
        raise ConfigError("--dry-run writes nothing, so it cannot be used with --queue")
    if dry_run:
        show_plan(complete, folder, as_json)
    elif queue:
        enqueue("train", complete, folder, as_json)
    else:
        _run(complete, folder, resume is not None, as_json)


def _run(config: TrainConfig, folder: Path, resume: bool, as_json: bool) -> None:
    from dreamtune.pipelines.train.run import train as run
    from dreamtune.training.process import is_first

    with console.stdout_kept():
        result = run(config, folder, resume=resume)
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
