"""What has no end, or never begins, is no file to read: whatever is named, the answer is a line, at once."""

import os
from pathlib import Path

import pytest

from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.train.run import TrainResult

COMMANDS = {
    "recipe": ["train", "--config", "{}"],
    "adapter": ["inspect", "{}"],
    "adapter to draw with": ["generate", "--adapter", "{}", "--prompt", "a", "--out", "out"],
    "prompts": ["generate", "--adapter", "{adapter}", "--prompts", "{}", "--out", "out"],
    "init": ["generate", "--base", "pocket", "--prompt", "a", "--init", "{}", "--out", "out"],
    "picture to draw again": ["generate", "--from", "{}", "--out", "out"],
    "prompts of an evaluation": [
        *("evaluate", "{adapter}", "--images", "{photos}", "--base", "{tiny}", "--dino", "{tiny}", "--clip", "{tiny}"),
        *("--prompts", "{}", "--out", "out"),
    ],
    "base": ["generate", "--base", "{}", "--prompt", "a", "--out", "out"],
    "fusion": ["fuse", "{adapter}", "{}", "--out", "out.safetensors"],
    "export": ["export", "{}", "--format", "lora", "--out", "out.safetensors"],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
@pytest.mark.parametrize("name", COMMANDS)
def test_pipes_and_devices_are_refused(
    name: str,
    kind: str,
    trained: TrainResult,
    photos: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path = Path("/dev/zero")
    places = {"adapter": trained.adapter, "photos": photos, "tiny": tiny}
    assert main([part.format(path, **places) for part in COMMANDS[name]]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: ") and told.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
