"""A run folder holds everything, costs nothing twice, and survives an interruption without a trace."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from dreamtune.adapters import AdapterFile
from dreamtune.errors import (
    BaseModelError,
    ConfigError,
    DatasetError,
    DreamtuneError,
    RunFolderError,
    TrainingError,
)
from dreamtune.models import Base, load_base
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.run import TrainResult, load_run_config, train
from dreamtune.pipelines.train.run_log import RunLog
from dreamtune.training.config import TrainConfig
from dreamtune.training.trainer import StepRecord
from tests.pipelines.conftest import STEPS
from tests.tiny_models import tiny_folder

Settings = Callable[..., TrainConfig]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


def test_run_folder(trained: TrainResult, told: list[Progress], settings: Settings) -> None:
    run = trained.run
    assert trained.files[0] == trained.adapter == run / "adapter.safetensors"
    assert all(path.is_file() for path in trained.files)
    samples = sorted(path.name for path in (run / "samples").iterdir())
    assert samples == ["step-000003-0.png", "step-000006-0.png"]
    with Image.open(run / "samples" / samples[0]) as sample:
        assert sample.size == (32, 32)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert all(line["loss"] == pytest.approx(line["subject_loss"] + line["prior_loss"]) for line in metrics)
    report = json.loads((run / "report.json").read_text())
    assert (report["base"], report["method"], report["steps"], report["pictures"]) == ("tiny", "lora", STEPS, 3)
    assert report["final_loss"] == trained.final_loss == pytest.approx(sum(line["loss"] for line in metrics) / STEPS)
    assert report["files"][0] == "adapter.safetensors", "the folder may be moved"
    assert [(p.done, p.total) for p in told if p.phase == "train"] == [(step, STEPS) for step in range(1, STEPS + 1)]


def test_adapter_knows_what_it_is(trained: TrainResult) -> None:
    file = AdapterFile.load(trained.adapter)
    assert (file.method, file.rank, file.base, file.token, file.class_word) == ("lora", 2, "tiny", "sks", "dog")
    assert file.training["steps"] == STEPS
    assert all(spectrum.norm > 0 for spectrum in file.spectra().values()), "a layer has not been trained"
    assert str(trained.run.parent) not in trained.adapter.read_bytes().decode("latin-1")


def test_recorded_settings_are_complete_and_repeat_the_run(trained: TrainResult, tmp_path: Path) -> None:
    recorded = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert recorded.keys() == TrainConfig.model_fields.keys()
    assert recorded["resolution"] == 32
    again = train(load_run_config(trained.run).changed(sample_every=0), tmp_path / "again", on_progress=quiet)
    assert again.adapter.read_bytes() == trained.adapter.read_bytes()


def test_latents_prompts_and_prior_are_made_once(
    trained: TrainResult, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("encode_images", "condition", "draw"):
        monkeypatch.setattr(Base, name, lambda *_, **__: pytest.fail("made again"))
    result = train(settings(steps=1, seed=5, rank=4), tmp_path / "other", on_progress=quiet)
    assert result.steps_now == 1


def test_samples_show_the_average_where_one_is_kept(settings: Settings, tiny: Path, tmp_path: Path) -> None:
    """The last sample is what the adapter file draws, not what the weights in training would."""
    pictures = {}
    for decay in (0.0, 0.9):
        config = settings(ema_decay=decay, sample_every=STEPS, lr=0.05, prior=False)
        result = train(config, tmp_path / str(decay), on_progress=quiet)
        base, config = load_base(str(tiny), device="cpu"), load_run_config(result.run)
        AdapterFile.load(result.adapter).attach(base.unet)
        prompt, steps, guidance = config.prompt(config.instance_prompt), config.sampling_steps, config.guidance
        latents = base.draw([prompt], [config.seed], size=32, steps=steps, guidance=guidance)
        pictures[decay] = base.to_pictures(latents)[0].tobytes()
        with Image.open(result.run / "samples" / f"step-{STEPS:06d}-0.png") as sample:
            assert sample.tobytes() == pictures[decay]
    assert pictures[0.0] != pictures[0.9]


def test_nan_stops_before_it_is_learned(settings: Settings, tmp_path: Path) -> None:
    config = settings(lr=10.0, lr_schedule="constant", warmup_steps=0, max_grad_norm=1e30, steps=300, prior=False)
    with pytest.raises(
        TrainingError, match=r"became (nan|inf) at step \d+; likely .*lr = 10.*checkpoint of step \d+"
    ) as caught:
        train(config, tmp_path / "run", on_progress=quiet)
    assert caught.value.exit_code == 1
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    spectra = AdapterFile.load(newest / "adapter.safetensors").spectra()
    assert all(spectrum.norm < float("inf") for spectrum in spectra.values())


def test_metrics_are_json_where_fp16_overflows(settings: Settings, tmp_path: Path) -> None:
    """Its gradient scaler skips such a step; Infinity is a word that Python alone reads."""
    folder, config, nobody = RunFolder(tmp_path), settings(), cast(Any, None)
    with RunLog(folder, config, nobody, nobody, quiet) as log:
        log.start(0)
        log.step(StepRecord(1, 0.5, 0.5, None, 1e-3, float("inf"), 0.1))
    (line,) = folder.metrics.read_text().splitlines()
    values = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (values["loss"], values["grad_norm"]) == (0.5, None)


def test_broken_picture_is_left_out_by_name_or_refused(settings: Settings, photos: Path, tmp_path: Path) -> None:
    pictures, told = tmp_path / "photos", list[Progress]()
    shutil.copytree(photos, pictures)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    config = settings(images=pictures, steps=1, prior=False)
    with pytest.raises(DatasetError, match=r"broken\.jpg"):
        train(config.changed(strict=True), tmp_path / "run", on_progress=quiet)
    result = train(config, tmp_path / "run", on_progress=told.append)
    assert (result.pictures, result.skipped) == (3, ("broken.jpg",))
    assert any("broken.jpg: is not a readable image; save it" in p.message for p in told if p.phase == "remark")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"images": "nowhere"}, DatasetError, "no image folder at nowhere"),
        ({"base": "nowhere"}, BaseModelError, "no base model 'nowhere'"),
        ({"base": "some/model"}, BaseModelError, "the hub cannot be reached"),
        ({"method": "loar"}, ConfigError, "unknown method 'loar'; did you mean 'lora'"),
        ({"rank": 1000}, ConfigError, "rank = 1000 is too high for a layer"),
        ({"method_options": {"dropuot": 0.1}}, ConfigError, "no option 'dropuot'; did you mean 'dropout'"),
        ({"targets": "nothing"}, ConfigError, "targets = 'nothing' matches no Linear or Conv2d layer"),
        ({"precision": "fp16"}, ConfigError, "fp16 needs a CUDA device"),
    ],
)
def test_bad_settings_write_nothing(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], kind: type[DreamtuneError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        train(settings(**changes), tmp_path / "run", on_progress=quiet)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_places_where_no_run_can_be(trained: TrainResult, settings: Settings, tmp_path: Path) -> None:
    def refuse(out: Path, message: str, resume: bool = False) -> None:
        with pytest.raises(RunFolderError, match=message):
            train(settings(), out, resume, on_progress=quiet)

    refuse(trained.run, "already exists: resume the run, or choose another name")
    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "is a file, not a folder")
    refuse(tmp_path / "file" / "run", "is a file, not a folder")
    refuse(tmp_path / "none", "no run to resume in .*: check the path", resume=True)
    (tmp_path / "busy").mkdir()
    with FileLock(tmp_path / "busy" / ".lock"):
        refuse(tmp_path / "busy", "another process is training in")


def test_a_run_that_was_quicker_is_not_overwritten(trained: TrainResult, settings: Settings, tmp_path: Path) -> None:
    """Two commands of one name: one has begun and ended here while the other one looked at its pictures."""
    run, config = tmp_path / "run", settings(flip=True, prior=False)

    def be_quicker(*_: Any) -> None:
        shutil.copytree(trained.run, run)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunFolderError, match="already exists"):
        patch.setattr("dreamtune.pipelines.train.run.wait_for_all", be_quicker)  # right after the preflight
        train(config, run, on_progress=quiet)
    left = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert left.pop(Path(".lock")) == b""
    assert left == {path: (trained.run / path).read_bytes() for path in left}


def test_same_seed_gives_the_same_bytes_and_another_does_not(
    trained: TrainResult, settings: Settings, tmp_path: Path
) -> None:
    other = train(settings(seed=1, steps=2), tmp_path / "b", on_progress=quiet)
    same = train(settings(seed=1, steps=2), tmp_path / "c", on_progress=quiet)
    first = AdapterFile.load(trained.adapter)
    assert other.adapter.read_bytes() == same.adapter.read_bytes()
    assert any(
        not torch.equal(tensor, first.tensors[name]) for name, tensor in AdapterFile.load(other.adapter).tensors.items()
    )


def test_embedded_base_is_recorded_by_its_name(
    settings: Settings, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a folder has that name too."""
    monkeypatch.setattr(
        "dreamtune.pipelines.train.preflight.load_base", lambda name, **options: load_base(tiny, **options)
    )
    monkeypatch.chdir(tmp_path)
    Path("pocket").mkdir()
    train(settings(base="pocket", steps=1, prior=False), "run", on_progress=quiet)
    assert load_run_config("run").base == "pocket"
    monkeypatch.chdir(tiny.parent)
    train(settings(base="tiny", steps=1, prior=False), tmp_path / "other", on_progress=quiet)
    assert load_run_config(tmp_path / "other").base == str(tiny)


@pytest.mark.parametrize("looking", [False, True], ids=["blind", "with samples"])
def test_only_the_unet_is_in_memory_while_training(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looking: bool
) -> None:
    """Unless pictures are drawn on the way, VAE and text encoder are gone once all is encoded."""
    bases: list[Base] = []
    devices: list[set[str]] = []

    def load(name: str, **options: Any) -> Base:
        bases.append(load_base(name, **options))
        return bases[0]

    def look(progress: Progress) -> None:
        if progress.phase == "train":
            modules = (bases[0].unet, bases[0].vae, bases[0].text_encoder)
            devices.extend({tensor.device.type for tensor in module.state_dict().values()} for module in modules)

    monkeypatch.setattr("dreamtune.pipelines.train.preflight.load_base", load)
    train(settings(steps=1, sample_every=int(looking)), tmp_path / "run", on_progress=look)
    rest = {"cpu"} if looking else {"meta"}
    assert devices == [{"cpu"}, rest, rest]


def test_base_with_another_objective_is_refused(settings: Settings, tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base", prediction_type="sample")
    with pytest.raises(BaseModelError, match="predicts 'sample'; only epsilon and v_prediction"):
        train(settings(base=str(base)), tmp_path / "run", on_progress=quiet)
    assert not (tmp_path / "run").exists()
