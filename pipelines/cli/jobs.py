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

app = typer.Typer(help="Manage queued, running and finished jobs.")
Id = Annotated[str, Argument(metavar="ID", help="Job number, as in `jobs list`.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List running, queued and finished jobs, the newest first."""
    jobs = Jobs().list()
    if as_json:
        console.print_json({"jobs": [job.to_dict() for job in jobs]})
        return
    if not jobs:
        console.say("No jobs. Add one with `dreamtune train ... --queue`.")
    for job in jobs:
        console.say(f"{job.id:>4}  {job.kind:8}  {_state(job):24}  {job.title}")
        if job.message and job.state in ("failed", "interrupted"):
            console.say(f"{'':6}{job.message}")


@app.command()
def stop(job_id: Id, as_json: Json = False) -> None:
    """Stop a running job. A training writes a checkpoint first; a second stop ends it at once."""
    _show(Jobs().stop(job_id), as_json)


@app.command()
def resume(job_id: Id, as_json: Json = False) -> None:
    """Queue a failed or interrupted job again. A training resumes from its last checkpoint."""
    _show(Jobs().resume(job_id), as_json)


@app.command()
def cancel(job_id: Id, as_json: Json = False) -> None:
    """Remove a job that has not started from the queue."""
    _show(Jobs().cancel(job_id), as_json)


@app.command()
def move(
    job_id: Id,
    position: Annotated[int, Argument(help="New position in the queue; 1 runs next.")],
    as_json: Json = False,
) -> None:
    """Move a queued job to another position."""
    _show(Jobs().move(job_id, position), as_json)


@app.command()
def log(
    job_id: Id, lines: Annotated[int, Option(min=1, help="Maximum number of lines.")] = 200, as_json: Json = False
) -> None:
    """Show the end of a job's log."""
    text = Jobs().log(job_id, lines)
    if as_json:
        console.print_json({"id": job_id, "log": text})
    else:
        console.say(text.replace("\r", "\n"), end="")  # bars that libraries draw


def worker(
    workers: Annotated[int, Option(help="Jobs to run at the same time; use 1 if they share one GPU.")] = 1,
    idle: Annotated[float | None, Option(min=0, help="Exit after this many idle seconds. (never)")] = None,
) -> None:
    """Run queued jobs until Ctrl-C. `dreamtune ui` has its own worker."""
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
        console.say("No worker is running: start one with `dreamtune worker`.")


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
