"""The command line as a user meets it: exit codes, one object or a few lines, never a traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreamtune.pipelines import console
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.progress import Printer, Progress
from dreamtune.pipelines.train import run as training
from dreamtune.pipelines.train.run import TrainResult

QUICK = ("steps=3", "prior_images=2", "sampling_steps=2", "batch_size=1", "resolution=32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(photos: Path, tiny: Path) -> list[str]:
    """A training of a second."""
    settings = [part for text in QUICK for part in ("--set", text)]
    return ["train", str(photos), "--class", "dog", "--base", str(tiny), "--device", "cpu", *settings]


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and message of a command line that must leave stdout empty and say what is wrong in a line or two."""
    code = main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    errors = [line for line in printed.err.splitlines() if line]
    assert errors[0].startswith("Error: ")
    assert len(errors) <= 2
    return code, printed.err


def test_from_pictures_to_pictures(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert printed.out.count("\n") == 1, "one object on one line"
        return json.loads(printed.out)

    result = run(*command, "--name", "rex", "--rank", "2")
    assert result["adapter"] == "runs/rex/adapter.safetensors"
    assert all(Path(path).is_file() for path in result["files"])
    base = command[command.index("--base") + 1]
    drawing = ("generate", "--adapter", result["adapter"], "--prompt", "a sks dog", "--n", "1", "--steps", "2")
    pictures = run(*drawing, "--base", base, "--out", "pictures")
    assert pictures["files"] == ["pictures/0000.png"]
    summary = run("inspect", result["adapter"])
    assert (summary["config"]["rank"], summary["token"]) == (2, "sks")
    assert main(["inspect", result["adapter"]]) == 0
    assert "subject     sks dog" in capsys.readouterr().out
    assert failed(capsys, *command, "--name", "rex")[0] == 2
    assert main(["train", "--resume", "runs/rex"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("runs/rex/adapter.safetensors  (3 steps, ")
    assert 'Try: dreamtune generate --adapter runs/rex/adapter.safetensors --prompt "a sks dog' in printed.out
    assert "resumed after step 3" in printed.err
    code, error = failed(capsys, "train", "--resume", "runs/rex", "--lr", "0.5")
    assert code == 2
    assert "with different settings (lr was " in error
    assert main(["train", "--config", "runs/rex/config.yaml", "--out", "other"]) == 0
    assert Path("other/adapter.safetensors").read_bytes() == Path("runs/rex/adapter.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{photos}"], "class_word is missing"),
        (["train", "none", "--class", "dog"], "no image folder at none"),
        (["train", "{empty}", "--class", "dog"], "is empty: put 3 to 30 images"),
        (["train", "{broken}", "--class", "dog", "--base", "{tiny}"], "no usable image"),
        (["train", "{partly}", "--class", "dog", "--base", "{tiny}", "--strict"], "broken.png: is empty"),
        (["train", "{photos}", "--class", "dog", "--base", "none"], "no base model 'none'"),
        (["train", "{photos}", "--class", "dog", "--base", "some/model"], "the hub cannot be reached"),
        (["train", "{photos}", "--class", "dog", "--method", "lorra"], "did you mean 'lora'?"),
        (["train", "{photos}", "--class", "dog", "--set", "step=3"], "did you mean 'steps'?"),
        (["train", "{photos}", "--class", "dog", "--out", "{broken}/x.png/run"], "is a file, not a folder"),
        (["train", "{photos}", "--class", "dog", "--config", "none.yaml"], "cannot read the recipe none.yaml"),
        (
            ["train", "{photos}", "--class", "dog", "--config", "{recipe}"],
            "unknown setting 'network_dim'; it is called 'rank' here",
        ),
        (["train", "{photos}", "--class", "dog", "--set", "prior=perhaps"], "prior = 'perhaps': must be true or false"),
        (["train", "{photos}", "--class", "dog", "--steps", "0"], "steps = 0: must be greater than or equal to 1"),
        (["train", "{photos}", "--class", "dog", "--set", "resolution=50"], "must be a multiple of 8; try 48"),
        (["train", "{texts}", "--class", "dog", "--base", "{tiny}"], "no usable image"),
        (["train", "{photos}", "--class", "dog", "--base", "some/model", "--dry-run"], "or use a folder"),
        (["train", "--resume", "none"], "no run to resume"),
        (["train", "--stepz", "3"], "No such option: --stepz"),
        (["train", "--steps", "many"], "'--steps'"),
        (["trian"], "trian"),
        (["generate", "--out", "x"], "--prompt"),
        (["generate", "--prompt", "x", "--adapter", "none.safetensors", "--out", "x"], "no adapter file"),
        (["inspect", "{tiny}/model_index.json"], "not a safetensors file"),
        (
            ["pocket", "draw", "--subject", "1", "--class", "unicorn", "--out", "x"],
            "unknown pocket class 'unicorn': use one of",
        ),
        (["pocket", "draw", "--subject", "1", "--n", "0", "--out", "x"], "n = 0 must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(
    arguments: list[str],
    message: str,
    photos: Path,
    tiny: Path,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"photos": photos, "tiny": tiny}
    for name in ("empty", "broken", "partly", "texts"):
        places[name] = tmp_path_factory.mktemp(name)
    (places["texts"] / "notes.txt").write_text("a sks dog")
    places["recipe"] = places["texts"].parent / "recipe.yaml"
    places["recipe"].write_text("network_dim: 4\n")
    (places["broken"] / "x.png").write_bytes(b"no picture")
    shutil.copytree(photos, places["partly"], dirs_exist_ok=True)
    (places["partly"] / "broken.png").touch()
    code, error = failed(capsys, *(argument.format(**places) for argument in arguments))
    assert code == 2
    assert message in error
    assert list(folder.iterdir()) == [], "nothing may be written"


def test_debug_shows_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "inspect", "none"], ["inspect", "none", "--debug"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert error.splitlines()[-1].startswith("Error: no adapter file none")


def test_signal_ends_with_130_and_a_way_on(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Printer.__call__

    def interrupting(self: Printer, progress: Progress) -> None:
        show(self, progress)
        if (progress.phase, progress.done) == ("train", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Printer, "__call__", interrupting)
    assert main([*command, "--out", "run", "--json"]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        "Error: stopped after step 2 of 3; a checkpoint was written; resume with: dreamtune train --resume run"
        in printed.err
    )
    assert Path("run/checkpoints/step-000002").is_dir()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "Stopped."),
        (RuntimeError("shape mismatch\nmore"), 1, "Error: RuntimeError: shape mismatch\nThis is a bug in dreamtune"),
    ],
)
def test_other_ends(
    error: BaseException,
    code: int,
    message: str,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    def fail(*_: Any, **__: Any) -> TrainResult:
        raise error

    monkeypatch.setattr(training, "train", fail)
    assert main(command) == code
    assert capsys.readouterr().err.startswith(message)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("train", "generate", "inspect", "export", "doctor", "pocket"))
    assert main(["train", "--help"]) == 0
    assert "--class" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dreamtune 0.")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == (0 if result["healthy"] else 1)
    main(["doctor"])
    assert "torch" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="torch computes with another library for threads")
@pytest.mark.parametrize(
    ("own", "spin"), [({}, console.SPIN), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_threads_of_torch_sleep_soon_unless_the_user_says_otherwise(own: dict[str, str], spin: str) -> None:
    """Told by the library of threads itself, when torch loads it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    run = "from dreamtune.pipelines.cli.app import main; main(['--version']); import torch"
    command = [sys.executable, "-P", "-c", run]
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | own
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert f"GOMP_SPINCOUNT = '{spin}'" in told.stderr


def test_pocket_draw(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = ("pocket", "draw", "--subject", "7", "--class", "cat", "--n", "2", "--size", "32", "--out")
    assert main([*draw, "one"]) == 0
    assert capsys.readouterr().out == "one/00.png\none/01.png\n"
    assert main([*draw, "two"]) == 0
    assert (folder / "one/01.png").read_bytes() == (folder / "two/01.png").read_bytes()
    with Image.open("one/00.png") as picture:
        assert (picture.size, picture.mode) == ((32, 32), "RGB")
    capsys.readouterr()
    assert failed(capsys, *draw, "one") == (2, "Error: one/00.png already exists: choose another folder\n")
