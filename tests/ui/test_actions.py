"""From what a page sends to jobs and settings."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.adapters.targets import match_layers
from dreamtune.errors import ConfigError, DreamtuneError
from dreamtune.models import Base, load_base
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.allowed_base import allowed_base
from dreamtune.pipelines.workspace import Workspace
from dreamtune.training.config import TrainConfig
from dreamtune.ui import actions
from dreamtune.ui.context import App
from tests.pipelines.tiny_adapters import adapter_on
from tests.tiny_models import tiny_folder
from tests.ui.conftest import Idle

CAT = {"class_word": "cat", "method": "lora"}


@pytest.fixture
def base(tiny: Path) -> Base:
    return load_base(tiny, "cpu")


def test_a_training_is_queued_and_a_worker_asked_for(app: App, worker: Idle) -> None:
    job = actions.train(app, "mine", {**CAT, "rank": None, "steps": 7}, "lr_schedule: linear\nsnr_gamma = 5")
    assert job.state == "queued" and job.out == app.workspace.runs / "mine-lora"
    app.call_worker().join()
    assert worker.asked == 2
    config = actions.train_config(app, "mine", {**CAT, "steps": 7}, "lr_schedule: linear\nsnr_gamma = 5")
    assert (config.steps, config.lr_schedule, config.snr_gamma) == (7, "linear", 5)
    assert actions.train(app, "mine", CAT).out.name == "mine-lora-2"


def test_each_subject_is_offered_a_word_of_its_own(app: App) -> None:
    assert actions.free_word(app) == "sks"
    first = actions.train(app, "mine", CAT)  # the default is sks, as on the command line
    assert actions.free_word(app) == "zwx"
    actions.train(app, "mine", CAT | {"token": "ZWX"})
    assert actions.free_word(app) == "qpl"
    app.jobs.cancel(first.id)
    assert actions.free_word(app) == "sks"


@pytest.mark.parametrize("key", ["images", "base", "start_from", "dino", "clip", "trackers", "images.x"])
def test_no_setting_names_a_file(app: App, key: str) -> None:
    with pytest.raises(ConfigError):
        actions.train_config(app, "mine", CAT, f"{key}: /etc")


@pytest.mark.parametrize(
    ("values", "more", "words"),
    [
        ({"class_word": ""}, "", "class is empty"),
        (CAT | {"steps": -1}, "", "steps = -1"),
        (CAT | {"method": "none"}, "", "unknown method"),
        (CAT, "nonsense", "KEY: VALUE"),
        (CAT, "rnak: 3", "did you mean 'rank'"),
        (CAT | {"base": "/etc"}, "", "no base"),
    ],
)
def test_bad_settings_are_told_in_words_and_leave_nothing(app: App, values: dict, more: str, words: str) -> None:
    with pytest.raises(DreamtuneError, match=words):
        actions.train(app, "mine", values, more)
    assert not app.jobs.list() and not list(app.workspace.runs.iterdir())


def test_the_queue_is_bounded(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MOST_QUEUED", 2)
    for _ in range(2):
        actions.train(app, "mine", CAT)
    with pytest.raises(ConfigError, match="2 jobs are already queued"):
        actions.train(app, "mine", CAT)


def test_pictures_of_a_call_are_bounded_before_anything_is_loaded(app: App) -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        actions.draw(app, [], {"prompts": ("a",), "n": 65}, lambda sign: None)
    with pytest.raises(ConfigError, match="prompt is empty"):
        actions.draw(app, [], {"prompts": (" ",)}, lambda sign: None)
    with pytest.raises(ConfigError, match="no adapter"):
        actions.draw(app, [("../x", 1.0)], {"prompts": ("a",)}, lambda sign: None)


def test_text_encoders_have_a_factor_where_an_adapter_changes_them(app: App, base: Base) -> None:
    for name, text in (("one", True), ("two", False)):
        config = LoRAConfig(rank=2)
        with attach(base.unet, config) as on, attach(base.text_encoder, config, "text") as more:
            about: dict[str, Any] = {"base": "tiny", "token": name, "class_word": "dog", "training": {}}
            file = AdapterFile.from_attached(on, text_encoders={"text_encoder": more} if text else {}, **about)
        file.save(app.workspace.adapters / f"{name}.safetensors")
    picks = [("adapters/one", 0.8), ("adapters/two", 1.0)]
    one, two = (app.workspace.adapters / f"{name}.safetensors" for name in ("one", "two"))
    assert actions.used(app, picks) == [f"{one}:0.8", f"{two}:1"]
    assert actions.used(app, picks, 0.5) == [f"{one}:0.8,te=0.5", f"{two}:1"]
    assert [AdapterRef.load(it).blocks for it in actions.used(app, picks, 0.5)] == [{"te": 0.5}, {}]


def test_fusion_and_forecast_need_two(app: App) -> None:
    for action in (
        lambda: actions.fuse(app, [], "sum", "", None, False),
        lambda: actions.forecast(app, [], lambda sign: None),
        lambda: actions.analyze(app, [], "", {}),
    ):
        with pytest.raises(ConfigError, match="choose"):
            action()


def test_private_folders_stay_private(app: App) -> None:
    assert Path(app.workspace.home).stat().st_mode & 0o077 == 0


def test_a_file_chooses_no_base_outside_the_list(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the hub, nor a path, nor a folder that lies where the app was started."""
    from dreamtune.models import hub

    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("the hub is asked"))
    monkeypatch.chdir(tmp_path)
    tiny = tiny_folder(tmp_path / "tiny")
    for name, base in (("hub", "someone/model"), ("path", "/etc"), ("here", "tiny"), ("fine", "pocket")):
        file = adapter_on(tiny, app.workspace.adapters / f"{name}.safetensors")
        replace(AdapterFile.load(file), base=base).save(file)

    def tell(_: object) -> None: ...

    for name in ("hub", "path", "here"):
        picks = [(f"adapters/{name}", 1.0), ("adapters/fine", 1.0)]
        for action in (
            lambda picks=picks: actions.draw(app, picks, {"prompts": ("a",)}, tell),
            lambda picks=picks: actions.draw(app, [], {"prompts": ("a",)}, tell, [picks[0][0]]),
            lambda picks=picks: actions.fuse(app, picks, "sum", "", None, False),
            lambda picks=picks: actions.analyze(app, [picks[0][0]], "", {}),
            lambda picks=picks: actions.forecast(app, picks, tell),
            lambda picks=picks: actions.evaluate(app, picks[0][0], "mine"),
        ):
            with pytest.raises(ConfigError, match="not one of the app's bases: choose one"):
                action()
    assert not app.jobs.list()
    assert allowed_base(app.workspace, ["adapters/fine"]) == "auto"
    bases = tmp_path / "bases"
    bases.mkdir()
    (tmp_path / "tiny").rename(bases / "tiny")
    allowing = Workspace(app.workspace.home, bases=(bases,))
    assert allowed_base(allowing, ["adapters/here"]) == str(bases / "tiny")


def test_the_base_of_a_run_is_the_one_it_was_trained_on(app: App, tmp_path: Path) -> None:
    tiny = tiny_folder(tmp_path / "tiny")
    run = app.workspace.runs / "mine"
    file = adapter_on(tiny, run / "adapter.safetensors")
    for base, told in ((str(tiny), "tiny"), ("someone/model", "someone/model")):
        (run / "config.yaml").write_text(TrainConfig(images=tmp_path, class_word="cat", base=base).to_yaml())
        replace(AdapterFile.load(file), base=told).save(file)
        assert allowed_base(app.workspace, ["runs/mine"]) == "auto"
    replace(AdapterFile.load(file), base="other/model").save(file)
    with pytest.raises(ConfigError, match="not one of the app's bases"):
        allowed_base(app.workspace, ["runs/mine"])


@pytest.mark.parametrize("pattern", ["([a-z_.0-9]+)+!", "(" * 900, "x{31}{31}{31}{31}", "a" * 5000])
def test_patterns_of_clients_hold_up_nothing(app: App, pattern: str) -> None:
    """Whether they are refused when they are sent or when the job finds them: matching has an end."""
    begin = time.monotonic()
    for values in ({"targets": pattern}, {"ranks": {pattern: 2}}):
        with suppress(ConfigError):
            actions.train(app, "mine", CAT | values)
    assert time.monotonic() - begin < 10
    for job in app.jobs.list():
        assert app.jobs.cancel(job.id).state == "cancelled"
    paths = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] * 300
    begin = time.monotonic()
    with suppress(ConfigError):
        match_layers(paths, {pattern: 2}, "targets")
    assert time.monotonic() - begin < 10
