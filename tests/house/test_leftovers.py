"""What killed processes leave goes with the next call, and what others are at work on stays."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dreamtune.leftovers import fresh_name, sweep_dead, temporary_folder
from dreamtune.pipelines.output import complete

KILLED = """
import os, signal, sys
from pathlib import Path
from dreamtune.leftovers import temporary_folder
from dreamtune.pipelines.output import complete
with complete(Path(sys.argv[1])) as target, temporary_folder() as folder:
    target.mkdir()
    (target / "weights").write_text("half")
    (folder / "probe").write_text("half")
    print("ready", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_a_killed_export_and_dry_run_leave_nothing_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "dreamtune-of-somebody").mkdir()
    out = tmp_path / "out"
    out.mkdir()

    def begin(how: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", KILLED, str(out / "model"), how]
        environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        process.stdout.close()
        return process

    at_work, killed = begin("at work"), begin("killed")
    try:
        assert killed.wait() == -signal.SIGKILL
        assert len(list(out.iterdir())) == 2 and len(list((tmp_path / "tmp").iterdir())) == 3
        with complete(out / "other") as target, temporary_folder() as folder:
            target.write_text("whole")
            assert folder.parent == tmp_path / "tmp" and folder.stat().st_mode & 0o077 == 0
        assert sorted(p.name for p in out.iterdir())[1:] == ["other"], "and what the living one writes"
        left = sorted(p.name for p in (tmp_path / "tmp").iterdir())
        assert left[1] == "dreamtune-of-somebody" and left[0].startswith(f"dreamtune-{at_work.pid}-")
        assert len(list(out.iterdir())) == len(left) == 2
    finally:
        assert at_work.stdin
        at_work.communicate()
        assert killed.stdin
        killed.stdin.close()
    assert at_work.returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["model", "other"]


def test_what_another_machine_has_begun_counts_as_left_after_days(tmp_path: Path) -> None:
    pid, began, machine, chance = fresh_name().split("-")
    elsewhere = "0" * 8 if machine != "0" * 8 else "1" * 8
    mine, over = f".{pid}-{began}-{machine}-{chance}.x", f".{pid}-{int(began) - 99}-{machine}-{chance}.x"
    there, old = f".{pid}-{began}-{elsewhere}-{chance}.x", f".{pid}-{began}-{elsewhere}-{chance}.y"
    for name in (mine, over, there, old, ".x", ".12-34.x", "1-2-00000000-00000000.x"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / old, (0.0, time.time() - 3 * 86400))
    (tmp_path / f".{over[1:-1]}link").symlink_to(tmp_path)
    sweep_dead(tmp_path, ".")
    assert {p.name for p in tmp_path.iterdir()} == {mine, there, ".x", ".12-34.x", "1-2-00000000-00000000.x"}
    sweep_dead(tmp_path / "none", ".")
