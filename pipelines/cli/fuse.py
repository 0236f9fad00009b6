"""`dreamtune fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.jobs import enqueue
from dreamtune.pipelines.cli.options import Device, Json, Queue

if TYPE_CHECKING:
    from dreamtune.pipelines.fuse.explain import Explanation
    from dreamtune.pipelines.fuse.run import FuseResult


def fuse(
    files: Annotated[
        list[str],
        Argument(
            metavar="FILE[:[WEIGHT,][BLOCK=FACTOR,...]]...",
            help="Adapter files, of any tool; BLOCK: down.0, mid, up.1, te.",
        ),
    ],
    out: Annotated[Path, Option(help="File to write, which must not exist.")],
    method: Annotated[
        str, Option(help="sum, mean, ties, dare, magnitude, tsv, knots, gradient or custom-diffusion.")
    ] = "sum",
    density: Annotated[
        float | None, Option(help="Share of the numbers that ties, dare, magnitude and knots keep (0.5).")
    ] = None,
    balance: Annotated[
        str | None,
        Option(help="First make all changes of a layer as large: their weights, or what they do to its output."),
    ] = None,
    rank: Annotated[
        str | None,
        Option(help="The most that a layer may have (exact where that is small, else 64), or full: all of it."),
    ] = None,
    form: Annotated[str, Option("--format", help="adapter, or checkpoint for the base's file, changed.")] = "adapter",
    base: Annotated[str | None, Option(help="The base, where it is needed (the adapters' own).")] = None,
    any_base: Annotated[bool, Option("--any-base", help="Allow another base than the adapters'.")] = False,
    seed: Annotated[int, Option(help="Of what dare draws, and of the pictures that are recorded.")] = 0,
    prompts: Annotated[
        Path | None,
        Option(
            help="What gradient, custom-diffusion and --explain draw, a prompt a line (each subject, in ten places)."
        ),
    ] = None,
    captions: Annotated[
        Path | None, Option(help="What custom-diffusion leaves alone, a caption a line (common things in ten places).")
    ] = None,
    steps: Annotated[int, Option(help="Denoising steps of the pictures that are recorded, also by --explain.")] = 10,
    device: Device = "auto",
    explained: Annotated[
        bool, Option("--explain", help="First tell how the adapters get along, and which method that speaks for.")
    ] = False,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Make one adapter of several, and say how much of each layer it keeps."""
    from dreamtune.pipelines.fuse.check import reads_prompts
    from dreamtune.pipelines.fuse.config import FuseConfig
    from dreamtune.pipelines.fuse.explain import explain
    from dreamtune.pipelines.fuse.run import check
    from dreamtune.pipelines.fuse.run import fuse as run
    from dreamtune.pipelines.generate.config import read_prompts

    config: dict[str, Any] = {
        "adapters": files,
        "method": method,
        "density": density,
        "balance": balance,
        "rank": rank,
        "format": form,
        "base": base,
        "any_base": any_base,
        "seed": seed,
        "prompts": read_prompts(prompts) if prompts else (),
        "captions": read_prompts(captions) if captions else (),
        "steps": steps,
        "device": device,
    }
    settings, explanation = FuseConfig(**config), None
    with console.stdout_kept():
        if explained:
            if not reads_prompts(settings):  # these are for the forecast alone then
                settings = settings.changed(prompts=())
            check(settings, out.expanduser())
            explanation = explain(FuseConfig(**config))
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
