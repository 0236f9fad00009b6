"""`dreamtune jobs` and `dreamtune worker`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.from_config import Json
from dreamtune.pipelines.jobs.queue import Jobs
from dreamtune.pipelines.progress import clock
from dreamtune.training.process import stop_on_signal

if TYPE_CHECKING:
    from dreamtune.config import Config
    from dreamtune.pipelines.jobs.job import Job, JobKind

app = typer.Typer(help="What waits, runs and has ended in the queue that `dreamtune worker` and the app work on.")
Id = Annotated[str, Argument(metavar="ID", help="Number of the job, as `jobs list` shows it.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show all jobs: what runs, what waits in its order, and what has ended, the newest first."""
    jobs = Jobs().list()
    if as_json:
        console.print_json({"jobs": [job.to_dict() for job in jobs]})
        return
    if not jobs:
        console.say("No jobs. `dreamtune train ... --queue` gives one.")
    for job in jobs:
        console.say(f"{job.id:>4}  {job.kind:8}  {_state(job):24}  {job.title}")
        if job.message and job.state in ("failed", "interrupted"):
            console.say(f"{'':6}{job.message}")


@app.command()
def stop(job_id: Id, as_json: Json = False) -> None:
    """Stop a job that runs: a training with a checkpoint, others with nothing written. A second time: at once."""
    _show(Jobs().stop(job_id), as_json)


@app.command()
def resume(job_id: Id, as_json: Json = False) -> None:
    """Put a job that failed or was interrupted into the queue again; a training goes on where it was."""
    _show(Jobs().resume(job_id), as_json)


@app.command()
def cancel(job_id: Id, as_json: Json = False) -> None:
    """Take a job that has not begun out of the queue."""
    _show(Jobs().cancel(job_id), as_json)


@app.command()
def move(
    job_id: Id,
    position: Annotated[int, Argument(help="New place in the queue; 1 is the next to run.")],
    as_json: Json = False,
) -> None:
    """Give a job that waits another place in the queue."""
    _show(Jobs().move(job_id, position), as_json)


@app.command()
def log(
    job_id: Id, lines: Annotated[int, Option(min=1, help="How many lines at most.")] = 200, as_json: Json = False
) -> None:
    """Show the end of what a job has printed."""
    text = Jobs().log(job_id, lines)
    if as_json:
        console.print_json({"id": job_id, "log": text})
    else:
        console.say(text.replace("\r", "\n"), end="")  # bars that libraries draw


def worker(
    workers: Annotated[int, Option(help="How many jobs may run at a time; 1 where they share one accelerator.")] = 1,
    idle: Annotated[
        float | None, Option(min=0, help="End when there was nothing to do for so many seconds (never).")
    ] = None,
) -> None:
    """Run the jobs of the queue, until Ctrl-C. `dreamtune ui` has a worker of its own."""
    import threading

    from dreamtune.pipelines.jobs.worker import run_worker

    stop = threading.Event()
    with stop_on_signal(stop):
        run_worker(workers=workers, stop_event=stop, idle=idle)


def enqueue(kind: JobKind, config: Config, out: Path, as_json: bool) -> None:
    """What `--queue` does instead of running a pipeline."""
    from dreamtune.pipelines.jobs.worker import WorkerProcess

    jobs = Jobs()
    _show(jobs.submit(kind, config, out), as_json)
    if not (as_json or WorkerProcess(jobs.home).alive()):
        console.say("No worker is at work: start one with `dreamtune worker`.")


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        console.print_json(job.to_dict())
    else:
        console.say(f"job {job.id} ({job.title}) is {_state(job)}")


def _state(job: Job) -> str:
    if job.state == "queued":
        return f"queued at {job.position}"
    if job.state not in ("running", "stopping") or not job.total:
        return job.state
    left = "" if job.eta is None else f", {clock(job.eta)} left"
    return f"{job.state}, {job.phase} {job.done}/{job.total}{left}"
