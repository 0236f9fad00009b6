"""The app's library, data sets and choices."""

import io
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dreamtune import names
from dreamtune.adapters.file import AdapterFile
from dreamtune.adapters.methods import METHODS
from dreamtune.errors import AdapterFileError, ConfigError, DatasetError
from dreamtune.fusion import FUSIONS
from dreamtune.pipelines import datasets, library
from dreamtune.pipelines.train.run import train
from dreamtune.pipelines.train.run_view import read_run
from dreamtune.pipelines.workspace import Workspace
from dreamtune.pocket.world import IDENTIFIERS
from dreamtune.training.config import TrainConfig
from tests.pipelines.tiny_adapters import adapter_on
from tests.tiny_models import pictures


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "home")
    for folder in (made.runs, made.adapters, made.datasets, made.pictures):
        folder.mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def trained(tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"steps": 2, "prior": False, "base": str(tiny), "sample_every": 2, "sampling_steps": 1, "resolution": 32}
    config = TrainConfig.model_validate({"images": photos, "class_word": "dog", **settings})
    return train(config, tmp_path_factory.mktemp("runs") / "dog", on_progress=lambda it: None).run


def test_choices_are_what_there_is() -> None:
    assert set(names.METHODS) == set(METHODS)
    assert set(names.FUSIONS) == set(FUSIONS)


def test_a_run_is_an_entry_with_a_picture_and_health(workspace: Workspace, trained: Path) -> None:
    (workspace.runs / "dog").symlink_to(trained)
    assert library.entries(workspace) == []  # a link that leads out is not there
    (workspace.runs / "dog").unlink()
    trained.rename(workspace.runs / "dog")
    try:
        (entry,) = library.entries(workspace)
        assert (entry.name, entry.label, entry.subject) == ("runs/dog", "dog", "sks dog")
        assert (entry.method, entry.error) == ("lora", None)
        shown = library.thumbnail(workspace, entry)
        assert shown is not None and shown.name == "step-000002-0.png"
        assert library.health(workspace, entry.name).verdict == "healthy"
        run = read_run(workspace.runs / "dog")
        assert [step for step, _ in run.losses] == [1, 2] and run.report and run.class_word == "dog"
        place = library.remove(workspace, entry.name)
        assert library.entries(workspace) == [] and (place / "adapter.safetensors").is_file()
        place.rename(workspace.runs / "dog")
    finally:
        (workspace.runs / "dog").rename(trained)


def test_health_is_measured_once_for_each_version(
    workspace: Workspace, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dog = workspace.adapters / "dog.safetensors"
    shutil.copy(trained / "adapter.safetensors", dog)
    assert library.known_health(library.entries(workspace)[0]) is None
    library.measure(workspace)
    known = library.known_health(library.entries(workspace)[0])
    assert known is not None and known.verdict == "healthy" and known.norm > 0
    monkeypatch.setattr("dreamtune.pipelines.export.inspect.inspect", lambda path: pytest.fail("measured again"))
    library.measure(workspace)
    monkeypatch.undo()
    file = AdapterFile.load(dog)
    dead = {name: tensor * (not name.endswith("up")) for name, tensor in file.tensors.items()}
    replace(file, tensors=dead).save(dog)
    (entry,) = library.entries(workspace)
    assert library.known_health(entry) is None
    monkeypatch.setattr(library, "QUICK_BYTES", entry.size - 1)  # a large one waits until it is asked for
    library.measure(workspace)
    assert library.known_health(entry) is None
    assert library.health(workspace, "adapters/dog").verdict == "changes nothing: retrain it"
    assert library.known_health(entry) is not None


def test_a_word_is_proposed_that_no_adapter_has(workspace: Workspace, trained: Path) -> None:
    assert library.WORDS == IDENTIFIERS  # which the embedded base knows
    assert library.free_word(workspace) == "sks"
    shutil.copy(trained / "adapter.safetensors", workspace.adapters / "dog.safetensors")
    assert library.free_word(workspace) == "zwx"
    assert library.free_word(workspace, ["ZWX"]) == "qpl"
    assert library.free_word(workspace, library.WORDS) == "sks"


def test_a_damaged_file_says_so_and_hides_no_other(workspace: Workspace, trained: Path) -> None:
    content = (trained / "adapter.safetensors").read_bytes()
    (workspace.adapters / "good.safetensors").write_bytes(content)
    (workspace.adapters / "bad.safetensors").write_bytes(content[:-100])
    found = {entry.label: entry for entry in library.entries(workspace)}
    assert found["good"].error is None
    assert "bad.safetensors" in (found["bad"].error or "") and str(workspace.home) not in (found["bad"].error or "")


def test_a_file_is_read_before_it_is_kept(workspace: Workspace, trained: Path, tmp_path: Path) -> None:
    source = trained / "adapter.safetensors"
    assert library.import_adapter(workspace, source, "my dog.safetensors") == "adapters/my dog"
    assert library.import_adapter(workspace, source, "../my dog.safetensors") == "adapters/my dog-2"
    assert (workspace.adapters / "my dog.safetensors").read_bytes() == source.read_bytes()
    before = sorted(workspace.adapters.iterdir())
    for name, content in (
        ("x.pt", pickle.dumps({"a": 1})),
        ("x.safetensors", pickle.dumps({"a": 1})),
        ("x.ckpt", b""),
        ("x.safetensors", b"\xff" * 64),
        ("x.safetensors", b""),
    ):
        (tmp_path / "sent").write_bytes(content)
        with pytest.raises(AdapterFileError, match=r"x\.") as refused:
            library.import_adapter(workspace, tmp_path / "sent", name)
        assert str(tmp_path) not in str(refused.value)
    assert sorted(workspace.adapters.iterdir()) == before


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../x.png", b"x")
    return buffer.getvalue()


def test_pictures_come_whole_or_not_at_all(workspace: Workspace, tmp_path: Path) -> None:
    good = sorted(pictures(tmp_path / "good").glob("*.png"))
    files = [(path.name, path) for path in good]
    assert datasets.bring(workspace, files, "dog") == "dog"
    assert datasets.bring(workspace, [("../../a b.png", good[0]), ("a b.png", good[1])]) == "a b"
    assert datasets.bring(workspace, [("dog-01.png", good[0])]) == "dog-2"
    assert datasets.bring(workspace, [("0001.png", good[0])]) == "pictures"
    assert [path.parent.name for path in workspace.datasets.glob("*/*.png")].count("a b") == 2
    before = sorted(workspace.datasets.iterdir())
    for name, content in (("x.svg", b"<svg/>"), ("x.zip", archive()), ("x.exe", b""), ("png", b"")):
        (tmp_path / "sent").write_bytes(content)
        with pytest.raises(DatasetError, match=name):
            datasets.bring(workspace, [*files, (name, tmp_path / "sent")], "mixed")
    with pytest.raises(DatasetError, match="too many"):
        datasets.bring(workspace, files * 100)
    assert sorted(workspace.datasets.iterdir()) == before


def test_captions_are_written_for_pictures_that_are_there(workspace: Workspace, tmp_path: Path) -> None:
    pictures(workspace.datasets / "dog")
    assert datasets.write_captions(workspace, "dog", {"0.png": "a sks dog\n on  snow", "1.png": ""}) == 1
    assert datasets.read_captions(workspace.datasets / "dog") == {
        "0.png": "a sks dog\non snow",
        "1.png": "",
        "2.png": "",
    }
    assert datasets.write_captions(workspace, "dog", {"0.png": " "}) == 0
    assert not list((workspace.datasets / "dog").glob("*.txt"))
    for wrong in ({"../x.png": "x"}, {"none.png": "x"}, {"0.png": "x" * 3000}):
        with pytest.raises(ConfigError):
            datasets.write_captions(workspace, "dog", {"1.png": "kept out", **wrong})
    assert not list((workspace.datasets / "dog").glob("*.txt"))
    pictures(tmp_path / "own" / "dog")
    other = Workspace(workspace.home, images=[tmp_path / "own"])
    with pytest.raises(ConfigError, match="of your own"):
        datasets.write_captions(other, "own/dog", {"0.png": "x"})


def test_small_views_are_small_and_nothing_for_what_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    view = datasets.small_view(tmp_path / "a.png", 64)
    assert view is not None and Image.open(io.BytesIO(view)).size == (64, 32)
    assert datasets.small_view(tmp_path / "b.png") is None and datasets.small_view(tmp_path / "c.png") is None


@pytest.mark.parametrize("fault", [MemoryError("no room"), RuntimeError("DefaultCPUAllocator: no"), RecursionError()])
def test_a_file_that_cannot_be_measured_breaks_nothing(
    workspace: Workspace, tiny: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Nor is it tried again at each visit; others are measured, and its details say why."""
    import dreamtune.pipelines.export.inspect as flow

    adapter_on(tiny, workspace.adapters / "bad.safetensors")
    adapter_on(tiny, workspace.adapters / "good.safetensors")
    plain, tried = flow.inspect, list[str]()

    def inspect(path: Path) -> object:
        tried.append(path.stem)
        if path.stem == "bad":
            raise fault
        return plain(path)

    monkeypatch.setattr(flow, "inspect", inspect)
    for _ in range(2):
        library.measure(workspace)
    assert sorted(tried) == ["bad", "good"]
    known = {entry.label: library.known_health(entry) for entry in library.entries(workspace)}
    assert known["bad"] is None and known["good"] is not None
    assert [library.is_hopeless(entry) for entry in library.entries(workspace) if entry.label == "bad"] == [True]
    with pytest.raises(AdapterFileError, match="bad cannot be measured: "):
        library.health(workspace, "adapters/bad")


def test_a_file_that_is_a_fault_to_read_breaks_nothing(
    workspace: Workspace, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dreamtune.adapters.formats as interop

    adapter_on(tiny, workspace.adapters / "x.safetensors")

    def fails(path: Path) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(interop, "read_adapter", fails)
    (found,) = library.entries(workspace)
    assert found.error == "x.safetensors cannot be read: no room"
