"""What the app promises about time, load and kills, on the processes themselves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from dreamtune.pipelines.jobs.queue import Jobs
from dreamtune.pipelines.jobs.worker import WorkerProcess
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig
from tests.tiny_models import pictures
from tests.ui.serving import Served, address, served, start

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1800)]
SECONDS = float(os.environ.get("DREAMTUNE_LOAD_SECONDS", "30"))
"""How long clients ask; 120 for the whole measurement."""
EVERY = 2.0
"""Seconds between two looks of a page at its job."""
TICK = os.sysconf("SC_CLK_TCK")


def used(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ask(client: httpx.Client, name: str, *values: object) -> tuple[str, str]:
    """Event and data of an endpoint's answer."""
    begun = client.post(f"/gradio_api/call/{name}", json={"data": list(values)})
    if begun.status_code != 200:
        return str(begun.status_code), begun.text
    answer = client.get(f"/gradio_api/call/{name}/{begun.json()['event_id']}")
    if answer.status_code != 200:
        return str(answer.status_code), answer.text
    lines = answer.text.strip().splitlines()
    return lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: ")


def test_it_serves_within_eight_seconds_and_rests_when_idle(tmp_path: Path) -> None:
    began = time.monotonic()
    with served(tmp_path / "home") as running:
        print("wall", time.monotonic() - began, "cpu", used(running.process.pid))
        assert used(running.process.pid) <= 8  # its own time: other work on this machine does not count
        with httpx.Client(base_url=running.url, timeout=60) as client:
            assert client.get("/").status_code == 200
            client.post("/gradio_api/call/jobs", json={"data": []})
        time.sleep(5)
        shares = []
        while not shares or (min(shares) > 0.02 and len(shares) < 3):  # a busy machine can only make it look like more
            before = used(running.process.pid)
            time.sleep(20)
            shares.append((used(running.process.pid) - before) / 20)
        print("idle", shares)
        assert min(shares) <= 0.02


def test_fifty_clients_lose_nothing(tmp_path: Path) -> None:
    with served(tmp_path / "home") as running:  # jobs only wait: what is counted is the server
        found: Counter[str] = Counter()
        asked: list[str] = []
        end = [0.0]

        def one(number: int) -> None:
            with httpx.Client(base_url=running.url, timeout=600) as client:
                turn = number
                while time.monotonic() < end[0]:
                    turn += 1
                    if turn % 3 == 0:
                        event, data = ask(client, "generate", "a cat", {}, 1, turn, {"steps": 1})
                    elif turn % 3 == 1:
                        event, data = ask(client, "check", "sample-cat", "cat", "sks", "pocket")
                    else:
                        event, data = ask(client, "jobs")
                    found[event] += 1
                    if number < 10 and turn < 20 and len(asked) < 40:
                        event, data = ask(client, "train", "sample-cat", "cat", {"steps": 2}, f"n{number}-{turn}")
                        if event == "complete":
                            asked.append(json.loads(data)[0]["id"])

        def burst(seconds: float) -> None:
            end[0] = time.monotonic() + seconds
            threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        def at_rest() -> int:
            """Memory when nobody asks: what the last answers needed has been given back."""
            time.sleep(3)
            with httpx.Client(base_url=running.url, timeout=600) as client:
                ask(client, "check", "sample-cat", "cat", "sks", "pocket")
            time.sleep(1)
            return memory(running.process.pid)

        burst(max(10, SECONDS / 3))  # after which everything has been loaded once
        before = at_rest()
        burst(SECONDS)
        after = at_rest()
        known = {job.id for job in Jobs(running.workspace.jobs).list()}
        print(dict(found), "memory", before, after)
        assert asked and set(asked) <= known
        assert set(found) <= {"complete", "error", "503"}, found  # errors: the queue is full, said so
        assert found["complete"] > 50
        assert after <= before * 1.1


class Page:
    """What a browser does that shows the tab Train: opened once, then a tick of its timer."""

    def __init__(self, client: httpx.Client, name: str) -> None:
        self.client, self.name = client, name
        self.events = client.get("/config").json()["dependencies"]
        self.values: dict[int, object] = {}
        self._do("load")

    def look(self) -> str:
        """The state that the page shows."""
        self._do("tick")
        return next(found[1] for it in self.values.values() if (found := re.search(r'data-state="(\w+)"', str(it))))

    def _do(self, event: str) -> None:
        found = next(it for it in self.events if event in [name for _, name in it["targets"]])
        sent = [self.values.get(id) for id in found["inputs"]]
        call = {"data": sent, "fn_index": found["id"], "session_hash": self.name}
        answer = self.client.post("/gradio_api/run/predict", json=call)
        assert answer.status_code == 200, answer.text
        for id, value in zip(found["outputs"], answer.json()["data"], strict=True):
            if not (isinstance(value, dict) and value.get("__type__") == "update"):
                self.values[id] = value


def finished(running: Served, id: str) -> str:
    return Jobs(running.workspace.jobs).wait(id, 600).state


def test_twenty_clients_that_poll_leave_a_training_its_steps(tmp_path: Path) -> None:
    settings = {"steps": 9000, "prior": False, "batch_size": 2, "checkpoint_every": 9000}
    with served(tmp_path / "home", worker=True) as running:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            id = json.loads(ask(client, "train", "sample-cat", "cat", settings, "run")[1])[0]["id"]
        metrics = running.workspace.runs / "run" / "metrics.jsonl"
        while not metrics.exists():
            time.sleep(0.1)
        polling, ended = threading.Event(), threading.Event()
        states: Counter[str] = Counter()

        def poll(number: int) -> None:
            with httpx.Client(base_url=running.url, timeout=60) as client:
                page = Page(client, f"page{number}")
                while not ended.is_set():
                    if polling.wait(0.5):
                        states[page.look()] += 1
                        ended.wait(EVERY)

        clients = [threading.Thread(target=poll, args=(number,)) for number in range(20)]
        for one in clients:
            one.start()
        steps: dict[bool, int] = {False: 0, True: 0}
        served_for: dict[bool, float] = {False: 0.0, True: 0.0}
        asked_for: dict[bool, float] = {False: 0.0, True: 0.0}
        kept, own, polled = 0.0, 0.0, 0
        for turn in range(32):  # in turns, since a machine's speed drifts
            polls = turn % 4 in (1, 2)
            polling.set() if polls else polling.clear()
            time.sleep(1)  # what was asked for before is answered
            before = metrics.read_text().count("\n"), used(running.process.pid), time.process_time()
            time.sleep(8)
            steps[polls] += metrics.read_text().count("\n") - before[0]
            served_for[polls] += used(running.process.pid) - before[1]
            asked_for[polls] += time.process_time() - before[2]
            polled += 8 * polls
            if turn % 8 == 7:  # windows of equal number; few of them tell nothing on a noisy machine
                own = asked_for[True] / polled
                kept = steps[True] / steps[False] + own  # clients are other machines: what they take here is no loss
                if kept >= 0.9:
                    break
        share = (served_for[True] - served_for[False]) / polled
        ended.set()
        for one in clients:
            one.join()
        Jobs(running.workspace.jobs).stop(id)
        WorkerProcess(running.workspace.jobs).stop()
        print(steps, dict(states), "server", share, "clients", own)
        assert set(states) == {"running"} and states["running"] > 200
        assert share <= 0.1  # of one core: threads that wait for each other lose no more than what one of them loses
        assert kept >= 0.9


def test_the_example_for_programs_trains_and_draws(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "api_client.py"
    auth = ("--auth", "me:long-password")
    photos = pictures(tmp_path / "photos")
    with served(tmp_path / "home", *auth, worker=True) as running:
        command = [sys.executable, str(script), running.url, *auth, "--pictures", str(photos), "--class", "dog"]
        ended = subprocess.run([*command, "--steps", "3"], capture_output=True, text=True, timeout=900, cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "3 usable images" in ended.stdout and "done" in ended.stdout
        drawn = re.findall(r"^picture +(.*)$", ended.stdout, re.MULTILINE)
        assert len(drawn) == 2 and all(Path(path).read_bytes().startswith(b"\x89PNG") for path in drawn), ended.stdout
        WorkerProcess(running.workspace.jobs).stop()


def test_a_kill_of_the_server_loses_nothing(tmp_path: Path) -> None:
    settings = {"steps": 30, "prior": False, "batch_size": 1, "checkpoint_every": 5}
    home, log = tmp_path / "home", tmp_path / "again.log"
    with served(home, worker=True) as running:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            event, data = ask(client, "train", "sample-cat", "cat", settings, "run")
            assert event == "complete", data
            id = json.loads(data)[0]["id"]
            jobs = Jobs(running.workspace.jobs)
            while not (running.workspace.runs / "run" / "metrics.jsonl").exists():
                time.sleep(0.1)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        assert jobs.get(id).state in ("running", "done")  # it goes on without the server
        again = start(home, log)
        try:
            with httpx.Client(base_url=address(again, log), timeout=60) as client:
                assert json.loads(ask(client, "job", id)[1])[0]["state"] in ("running", "done")
            assert finished(running, id) == "done"
        finally:
            again.terminate()
            again.wait(30)
        WorkerProcess(running.workspace.jobs).stop()
        images = running.workspace.datasets / "sample-cat"
        config = TrainConfig.model_validate({"images": images, "class_word": "cat", **settings})
        plain = train(config, tmp_path / "plain")
        assert plain.adapter.read_bytes() == (running.workspace.runs / "run" / "adapter.safetensors").read_bytes()
