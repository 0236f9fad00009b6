"""Models of the hub: found in its cache, and quickly told when the hub refuses or cannot be reached."""

import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from dreamtune.errors import BaseModelError
from dreamtune.models import family_of, hub, load_base


def test_hub_that_is_switched_off() -> None:
    with pytest.raises(BaseModelError, match="no folder 'some/model' here, and the hub cannot be reached"):
        load_base("some/model")


def test_unreachable_hub_is_asked_once_and_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, timeout: float) -> None:
        assert timeout <= 10
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_: pytest.fail("downloads retry for minutes"))
    with pytest.raises(BaseModelError, match=r"cannot be reached .*\(ConnectionError\)"):
        load_base("some/model")


def test_cached_file_will_do_where_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo, name: str(tmp_path / name))
    assert hub.hub_file("some/model", "model_index.json") == (tmp_path / "model_index.json", False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "is gated: accept its terms"),
        (RepositoryNotFoundError, "neither as a folder nor on the hub"),
        (RemoteEntryNotFoundError, "has no model_index.json"),
    ],
)
def test_refusals_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: type[HfHubHTTPError], message: str) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise kind("no", response=MagicMock(headers={}))

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    with pytest.raises(BaseModelError, match=message):
        load_base("some/model")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["tiny", "tiny_sdxl"])
def test_model_of_the_hub_is_loaded_from_its_cache(
    kind: str, half: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hub is out of reach, as it is in tests, what was downloaded before will do, also the variant fp16."""
    folder: Path = request.getfixturevalue(kind)
    cached, commit = tmp_path / "models--some--model", "0" * 40
    shutil.copytree(folder, cached / "snapshots" / commit)
    if half:
        for file in cached.rglob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base, expected = load_base("some/model", device="cpu"), load_base(folder, device="cpu")
    assert (base.id, base.family) == ("some/model", expected.family)
    assert family_of("some/model") == expected.family
    for name, part in base.parts.items():
        assert all(torch.equal(t, expected.parts[name].state_dict()[key]) for key, t in part.state_dict().items())
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("the hub is asked"))
    assert load_base("some/model", device="cpu", local=True).id == "some/model"
    assert family_of("some/model", local=True) == expected.family
    with pytest.raises(BaseModelError, match="other/model is not on this machine, .* with --base other/model"):
        load_base("other/model", device="cpu", local=True)


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["unet/a.safetensors", "unet/a.fp16.safetensors", "vae/b.safetensors"], None),
        (["unet/a.fp16.safetensors", "vae/b.fp16.safetensors", "all.safetensors"], "fp16"),
        (["unet/a.fp16-00001-of-00002.safetensors", "unet/a.fp16-00002-of-00002.safetensors"], "fp16"),
    ],
)
def test_variant_of_a_model_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, files: list[str], variant: str | None
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("dreamtune.models.load.hub_file", lambda repo, name, local: (tiny / name, True))
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda self, repo: files)
    monkeypatch.setattr(
        StableDiffusionPipeline, "from_pretrained", lambda repo, **given: asked.append(given["variant"])
    )
    with pytest.raises(AttributeError):  # what is loaded here is nothing
        load_base("some/model", device="cpu")
    assert asked == [variant]


def test_pickles_on_the_hub_and_a_list_that_fails(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr("dreamtune.models.load.hub_file", lambda repo, name, local: (tiny / name, True))
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda self, repo: ["unet/diffusion_pytorch_model.bin"])
    with pytest.raises(BaseModelError, match="some/model: the weights in unet/ are pickled"):
        load_base("some/model", device="cpu")

    def fail(self: object, repo: str) -> list[str]:
        raise ConnectionError("gone")

    monkeypatch.setattr(hub.HfApi, "list_repo_files", fail)
    with pytest.raises(BaseModelError, match=r"does not list the files of some/model \(ConnectionError\)"):
        load_base("some/model", device="cpu")
