"""Trainings that begin at an adapter file."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import AdapterFileError, ConfigError, IncompatibleModelError, Interrupted
from dreamtune.pipelines.export.run import export
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import TrainResult, load_run_config, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.test_resume import stopping_at
from tests.tiny_models import tiny_folder

Settings = Callable[..., TrainConfig]
STILL = {"steps": 1, "lr": 1e-9, "prior": False, "warmup_steps": 0}
"""A training that hardly leaves where it begins."""


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@pytest.fixture
def begun(settings: Settings, tmp_path: Path) -> Callable[..., tuple[AdapterFile, list[str]]]:
    """Train from a file, with nothing set but what is given, and what was said."""

    def make(start: Path, name: str = "run", **changes: Any) -> tuple[AdapterFile, list[str]]:
        told: list[Progress] = []
        usual = settings(**STILL)
        values = {key: getattr(usual, key) for key in usual.model_fields_set - {"rank"}}
        config = TrainConfig(**values | changes, start_from=start)
        result = train(config, tmp_path / name, on_progress=told.append)
        return AdapterFile.load(result.adapter), [it.message for it in told if it.phase == "remark"]

    return make


def test_it_goes_on_from_the_adapter_and_says_so(trained: TrainResult, begun: Any) -> None:
    before = AdapterFile.load(trained.adapter)
    file, told = begun(trained.adapter)
    assert (file.method, file.rank, file.token) == (before.method, before.rank, before.token)
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(file.tensors[name], tensor, rtol=0, atol=1e-8)
    assert told == ["starts from adapter.safetensors (lora): all of its change"]
    started = file.training["started_from"]
    assert {key: started[key] for key in ("file", "method", "energy")} == {
        "file": "adapter.safetensors",
        "method": "lora",
        "energy": 1.0,
    }
    assert len(started["sha256"]) == 64
    assert "start_from" not in file.training, "no path of this machine"


def test_a_run_that_was_stopped_goes_on_without_the_file(
    trained: TrainResult, settings: Settings, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(trained.adapter.read_bytes())
    config = settings(start_from=start, prior=False, steps=4)
    whole = train(config, tmp_path / "whole", on_progress=quiet)
    stop, run = threading.Event(), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(config, run, on_progress=stopping_at(2, stop.set), stop=stop)
    with pytest.raises(
        ConfigError, match=r"with different settings \(start_from was '.*start.safetensors', now '.*adapter"
    ):
        train(load_run_config(run).changed(start_from=trained.adapter), run, resume=True, on_progress=quiet)
    start.unlink()
    result = train(load_run_config(run), run, resume=True, on_progress=quiet)
    assert result.adapter.read_bytes() == whole.adapter.read_bytes()
    assert result.adapter.read_bytes() != trained.adapter.read_bytes()


def test_another_method_with_less_rank_says_what_it_keeps(trained: TrainResult, begun: Any) -> None:
    file, told = begun(trained.adapter, method="dora", rank=1)
    assert (file.method, file.rank) == ("dora", 1)
    energy = file.training["started_from"]["energy"]
    assert 0.1 < energy < 1
    assert told[0].startswith(
        f"starts from adapter.safetensors (lora): {energy:.2%} of its change; rank 2 would keep all"
    )


def test_a_file_of_another_tool(trained: TrainResult, tiny: Path, begun: Any, tmp_path: Path) -> None:
    export(trained.adapter, tmp_path / "kohya.safetensors", "kohya")
    file, told = begun(tmp_path / "kohya.safetensors", token="zwx")
    before = AdapterFile.load(trained.adapter)
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(file.tensors[name], tensor, rtol=1e-5, atol=1e-7)
    assert file.token == "zwx"
    assert "starts from kohya.safetensors (lora): all of its change" in told


def test_layers_and_words_that_do_not_agree_are_told(trained: TrainResult, begun: Any) -> None:
    file, told = begun(trained.adapter, targets="kv", token="zwx")
    assert file.training["started_from"]["energy"] < 1
    assert any("of its layers, with" in it and "are not trained here and are skipped" in it for it in told)
    assert "adapter.safetensors was trained with the token 'sks', but this run uses 'zwx'" in told


def test_embeddings_and_text_encoders_too(settings: Settings, begun: Any, tmp_path: Path) -> None:
    config = settings(pivotal=2, text_encoder=True, prior=False, steps=1, lr=1e-2, pivotal_lr=0.1)
    start = train(config, tmp_path / "first", on_progress=quiet).adapter
    before = AdapterFile.load(start)
    file, _ = begun(start, text_encoder=True)
    assert file.embeddings == before.embeddings
    for name, tensor in before.tensors.items():
        atol = 2e-3 if name.startswith("embedding") else 1e-7  # its own rate, of 5e-4 a step
        torch.testing.assert_close(file.tensors[name], tensor, rtol=0, atol=atol)
    with pytest.raises(ConfigError, match="pivotal = 3, but .* has 2 vectors of its own for 'sks'"):
        begun(start, "other", pivotal=3)


def test_one_of_several_words(settings: Settings, begun: Any, tmp_path: Path) -> None:
    """Of a fused file: the token's own vectors are taken, and it is said whose are not."""
    config = settings(pivotal=1, prior=False, steps=1)
    start = train(config, tmp_path / "first", on_progress=quiet).adapter
    file, vectors = AdapterFile.load(start), {"text_encoder": torch.full((2, 32), 0.5)}
    both = replace(file, others=(("xyz", "cat"),)).with_vectors({**file.vectors, "xyz": vectors})
    both.save(tmp_path / "both.safetensors")
    first, told = begun(tmp_path / "both.safetensors")
    assert (first.token, first.new_tokens) == ("sks", {"sks": {"text_encoder": (1, 32)}})
    assert "both.safetensors also has vectors for 'xyz', which are not trained here" in told
    second, told = begun(tmp_path / "both.safetensors", "second", token="xyz")
    assert torch.allclose(second.vectors["xyz"]["text_encoder"], vectors["text_encoder"], atol=2e-3)
    assert "both.safetensors also has vectors for 'sks', which are not trained here" in told
    assert not any("was trained with the token" in it for it in told)


def test_what_cannot_be_begun_at(trained: TrainResult, begun: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spectral-r cannot start from lora, only from spectral-r"):
        begun(trained.adapter, method="spectral-r", rank=2)
    other = tiny_folder(tmp_path / "other", width=48)
    with pytest.raises(IncompatibleModelError, match="for another base|other weights"):
        begun(trained.adapter, base=str(other))
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    for path in (tmp_path / "x.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(AdapterFileError):
            begun(path)
    assert not (tmp_path / "run").exists()
