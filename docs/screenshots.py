"""`python docs/screenshots.py [--home DIR]`: take the pictures of docs/app.md, in docs/images/app-*.png.

Serves the app from DIR, a new folder if not given, trains two sample subjects there if they are not, draws, analyzes,
and shows each tab in Debian's Chromium. Takes what two trainings on the embedded base take.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dreamtune.pipelines.jobs.queue import Jobs
from dreamtune.pipelines.jobs.worker import WorkerProcess
from dreamtune.pipelines.workspace import Workspace

IMAGES = Path(__file__).parent / "images"
SUBJECTS = {"cat": "sks", "robot": "zwx"}
TABS = ("Train", "Generate", "Fuse", "Analyze", "Jobs", "Library")
PORT = 7899


def prepare(workspace: Workspace, steps: int) -> None:
    """Two adapters and a report in the app's folder."""
    workspace.make()
    jobs, worker = Jobs(workspace.jobs), WorkerProcess(workspace.jobs)
    worker.ensure()
    for name, token in SUBJECTS.items():
        if not (workspace.runs / name / "report.json").is_file():
            config = {"images": workspace.datasets / f"sample-{name}", "class_word": name, "token": token}
            config |= {"steps": steps, "sample_every": max(1, steps // 8)}
            finish(jobs, jobs.submit("train", config, workspace.runs / name, f"{name}: {name}, lora").id)
    if not workspace.all_reports():
        files = [str(workspace.runs / name / "adapter.safetensors") for name in SUBJECTS]
        finish(jobs, jobs.submit("analyze", {"adapters": files}, workspace.reports / "cat and robot").id)


def finish(jobs: Jobs, id: str) -> None:
    """Wait for a job. Ends the program if it fails."""
    job = jobs.wait(id, 24 * 3600)
    if job.state != "done":
        raise SystemExit(f"{job.title}: {job.message}")


def choose(page: Page, label: str, names: list[str]) -> None:
    """Choose from a list of the tab that is seen."""
    for name in names:
        page.get_by_label(label, exact=True).locator("visible=true").first.click()
        page.get_by_role("option", name=name, exact=True).click()
    page.keyboard.press("Escape")


def take(page: Page, url: str) -> None:
    """Fill each tab with something to see, and take its picture."""
    page.goto(url)
    page.locator(".dt-job").first.wait_for()
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        time.sleep(3)
        if name == "Generate":
            choose(page, "Adapters", ["cat"])
            page.locator("#generate").click()
            page.locator("#plain img").first.wait_for()
        elif name == "Fuse":
            choose(page, "Adapters", list(SUBJECTS))
            page.locator("#fuse-forecast").click()
            page.locator("#fuse-told li").first.wait_for()
        elif name == "Analyze":
            choose(page, "Reports", ["cat and robot"])
            page.locator("#analyze-page iframe").wait_for()
        elif name == "Library":
            page.get_by_role("button", name="Details").first.click()
            page.get_by_text("Strongest layers").first.wait_for()
        time.sleep(3)
        page.screenshot(path=IMAGES / f"app-{name.lower()}.png", full_page=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    home = args.home or Path(tempfile.mkdtemp(prefix="dreamtune-"))
    prepare(Workspace(home), args.steps)
    command = [sys.executable, "-m", "dreamtune.pipelines.cli", "ui", "--port", str(PORT), "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stderr is not None
        server.stderr.readline()  # it serves
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.set_default_timeout(600_000)
            take(page, f"http://127.0.0.1:{PORT}")
            browser.close()
        finally:
            server.terminate()
    if args.home is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
