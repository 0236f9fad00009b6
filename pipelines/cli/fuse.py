"""`dreamtune fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from dreamtune.names import FUSIONS
from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json, Queue, options_of
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.generate.config import read_prompts

if TYPE_CHECKING:
    from dreamtune.pipelines.fuse.explain import Explanation
    from dreamtune.pipelines.fuse.run import FuseResult


@options_of(
    FuseConfig,
    metavars={"adapters": "FILE[:[WEIGHT,][BLOCK=FACTOR,...]]..."},
    choices={"method": FUSIONS},
    argument="adapters",
    without=("prompts", "captions"),
)
def fuse(
    given: dict[str, Any],
    out: Annotated[Path, Option(help="File to write; it must not exist.")],
    prompts: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Prompts to record, one per line, for gradient, custom-diffusion and --explain. (each subject in ten "
            "places)",
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Captions that custom-diffusion leaves unchanged, one per line. (common things in ten places)",
        ),
    ] = None,
    explained: Annotated[
        bool, Option("--explain", help="First report how the adapters get along and which method suits them.")
    ] = False,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Fuse several adapters into one, and report how much of each layer is kept."""
    from dreamtune.pipelines.fuse.check import reads_prompts
    from dreamtune.pipelines.fuse.explain import explain
    from dreamtune.pipelines.fuse.run import check
    from dreamtune.pipelines.fuse.run import fuse as run

    for name, file in (("prompts", prompts), ("captions", captions)):
        if file is not None:
            given[name] = read_prompts(file)
    config, explanation = FuseConfig(**given), None
    settings = config
    with console.stdout_kept():
        if explained:
            if not reads_prompts(settings):  # these are for the forecast alone then
                settings = settings.changed(prompts=())
            check(settings, out.expanduser())
            explanation = explain(config)
    if explanation is not None and not as_json:
        show_explanation(explanation)
    if queue:
        enqueue("fuse", settings, out, as_json)
        return
    with console.stdout_kept():
        result = run(settings, out)
    if as_json:
        told = {} if explanation is None else {"explanation": explanation.to_dict()}
        console.print_json({**result.to_dict(), **told})
    else:
        show(result)


def show_explanation(told: Explanation) -> None:
    """What was found to tell; a line for each ordered pair, what was measured of such figures, the recommendation."""
    for line in told.together:
        console.say(line)
    width = max((len(name) for pair in told.pairs for name in (pair.a, pair.b)), default=0)
    console.say(f"{'drawing':{width}}  {'added':{width}}  {'changes it by':>13}  {'loss':>5}")
    for pair in told.pairs:
        for names, x, loss in zip(((pair.a, pair.b), (pair.b, pair.a)), pair.crosstalk, pair.forecast, strict=True):
            share, lost = "-" if x is None else f"{x**0.5:.0%}", "-" if loss is None else f"{loss:.2f}"
            console.say(f"{names[0]:{width}}  {names[1]:{width}}  {share:>13}  {lost:>5}")
    if told.calibration is None:
        console.say("not calibrated: nobody has measured what such figures mean for pictures of this base")
    else:
        low, middle, high = (told.calibration[name] for name in ("low", "spearman", "high"))
        pocket = "pocket" if told.calibration["same_base"] else "an earlier pocket"
        console.say(
            f"calibrated on {told.calibration['pairs']} pairs on {pocket}: the loss of subject fidelity and this "
            f"change have the rank correlation {middle:.2f} ({low:.2f} to {high:.2f})"
        )
    console.say(f"recommended --method {told.method}" + (f" --balance {told.balance}" if told.balance else ""))
    for reason in told.reasons:
        console.say(f"- {reason}")
    console.say()


def show(result: FuseResult) -> None:
    """What was written, and the layers that kept least; first of all what a layer has lost."""
    if result.warning:
        console.say(f"warning     {result.warning}")
    console.say(f"{result.out}  ({result.method} of {len(result.energy)} layers)")
    for remark in result.remarks:
        console.say(f"remark      {remark}")
    if result.exact:
        console.say("exact       all of the fusion is kept")
        return
    console.say(f"\n{'energy kept':>11}  {'rank':>4}  layer")
    for path, share in sorted(result.energy.items(), key=lambda it: it[1])[: console.LAYERS_SHOWN]:
        console.say(f"{share:11.2%}  {result.ranks[path]:4}  {path}")
    if len(result.energy) > console.LAYERS_SHOWN:
        console.say(f"... and {len(result.energy) - console.LAYERS_SHOWN} more")
