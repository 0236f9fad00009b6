"""Bases are found, are what they were saved as, and every other thing is refused in a line that says what to do."""

import json
import shutil
from collections.abc import Callable
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
from safetensors.torch import load_file, save_file

from dreamtune.errors import BaseModelError, ConfigError
from dreamtune.models import Base, family_of, hub, load_base
from dreamtune.models.single_file import look_inside
from tests.tiny_models import tiny_checkpoint, tiny_folder


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(tiny, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tiny, tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def weights(base: Base) -> dict[str, torch.Tensor]:
    parts = {"unet": base.unet, "vae": base.vae, "text": base.text_encoder}
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}


def test_folder_is_loaded_frozen_in_fp32(base: Base) -> None:
    assert (base.id, base.family, base.resolution, base.prediction_type) == ("tiny", "pocket", 32, "epsilon")
    for part in (base.unet, base.vae, base.text_encoder):
        assert not part.training
        assert all(not p.requires_grad and p.dtype == torch.float32 for p in part.parameters())


def test_half_precision_on_disk_becomes_fp32(tiny: Path, base: Base, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "half")
    for file in (tmp_path / "half").rglob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    half = weights(load_base(tmp_path / "half", device="cpu"))
    for name, tensor in weights(base).items():
        assert half[name].dtype == torch.float32
        assert torch.equal(half[name], tensor.half().float())


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2")])
def test_family_and_prediction(tmp_path: Path, width: int, family: str) -> None:
    base = load_base(tiny_folder(tmp_path / "wide", "v_prediction", width), device="cpu")
    assert (base.family, base.prediction_type) == (family, "v_prediction")
    assert torch.equal(base.noise_scheduler().alphas_cumprod, base.scheduler.alphas_cumprod)


def test_single_file_has_the_same_weights(base: Base, checkpoint: Path) -> None:
    single = load_base(checkpoint, device="cpu")
    assert single.id == "model.safetensors", "no folder of this machine"
    expected = weights(base)
    assert weights(single).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(single).items())
    assert single.tokenizer("a sks dog").input_ids == base.tokenizer("a sks dog").input_ids


def test_single_file_of_the_second_generation(tmp_path: Path) -> None:
    """Its text encoder is stored in OpenCLIP's form."""
    folder = tiny_folder(tmp_path / "second", "v_prediction", 1024)
    expected = weights(load_base(folder, device="cpu"))
    single = load_base(tiny_checkpoint(folder, tmp_path / "one.safetensors", "open_clip"), device="cpu")
    assert (single.family, single.prediction_type) == ("sd2", "v_prediction")
    assert weights(single).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(single).items())


def test_half_precision_takes_half_the_memory_and_the_vae_stays_whole(tiny: Path, base: Base, checkpoint: Path) -> None:
    for place in (tiny, checkpoint):
        half = load_base(place, device="cpu", precision="bf16")
        for name, tensor in weights(half).items():
            wanted = torch.float32 if name.startswith("vae.") else torch.bfloat16
            assert tensor.dtype == wanted, name
            assert torch.equal(tensor, weights(base)[name].to(wanted))
        settings = {"size": 32, "steps": 3, "guidance": 4.0}
        drawn, expected = (it.draw(["a dog"], [7], **settings) for it in (half, base))
        assert drawn.dtype == torch.float32
        torch.testing.assert_close(drawn, expected, atol=0.2, rtol=0)
        (found,), (wanted) = half.condition(["a dog"]), base.condition(["a dog"])
        assert found.embedding.dtype == torch.float32
        torch.testing.assert_close(found.embedding, wanted[0].embedding, atol=0.05, rtol=0)


def test_half_precision_alone_on_disk_is_found(tiny: Path, base: Base, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "half")
    for file in (tmp_path / "half").rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert torch.equal(load_base(tmp_path / "half", device="cpu").unet.conv_in.weight, base.unet.conv_in.weight)


def test_fp16_needs_cuda(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        load_base(tiny, device="cpu", precision="fp16")


def test_prompts_are_encoded_as_the_pipeline_does(base: Base) -> None:
    prompts = ["a sks dog", "x" * 200]
    expected = base.pipeline().encode_prompt(prompts, torch.device("cpu"), 1, False)[0]
    conditioned = base.condition(prompts)
    assert torch.equal(torch.stack([it.embedding for it in conditioned]), expected)
    assert [it.pooled for it in conditioned] == [None, None]


def test_latents_are_those_of_the_pipeline(base: Base) -> None:
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = base.encode_images(pictures)
    assert latents.shape == (2, 4, 8, 8)
    expected = base.vae.encode(pictures).latent_dist.mode() * base.vae.config["scaling_factor"]  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(latents, expected)


def test_pictures_equal_the_pipelines_own_and_do_not_depend_on_the_batch(base: Base, tiny: Path) -> None:
    settings = {"size": 32, "steps": 3, "guidance": 4.0, "negative_prompt": "cat"}
    together = base.draw(["a dog", "a sks dog"], [7, 8], **settings)
    alone = base.draw(["a sks dog"], [8], **settings)
    torch.testing.assert_close(together[1:], alone)
    reference = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None)
    reference.set_progress_bar_config(disable=True)
    picture = reference(
        "a sks dog",
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=4.0,
        negative_prompt="cat",
        generator=torch.Generator().manual_seed(8),
    ).images[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert base.to_pictures(alone)[0].tobytes() == picture.tobytes()


def without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def of_another_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))


def refiner(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLImg2ImgPipeline"}))


def inpainting_pipeline(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionInpaintPipeline"}))


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def of_another_noise(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EDMEulerScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "EDMEulerScheduler"}))


def without_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def cut_short(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def for_inpainting(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_index, "not a diffusers folder: it holds no model_index.json"),
        (broken_index, "cannot be read: download the model again"),
        (of_another_class, "is a FluxPipeline: only Stable Diffusion 1.x, 2.x and XL"),
        (refiner, "is the SDXL refiner, .* use the SDXL base"),
        (inpainting_pipeline, "StableDiffusionInpaintPipeline: inpainting and editing models"),
        (pickled, "the weights in unet/ are pickled: .* convert the model to .safetensors first"),
        (of_another_noise, "another noise"),
        (without_unet, "cannot load the base .*; download it again"),
        (cut_short, "cannot load the base .*; download it again"),
        (for_inpainting, "takes 9 channels, not 4: inpainting and editing models"),
    ],
)
def test_unusable_folders(tiny: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny, folder)
    damage(folder)
    with pytest.raises(BaseModelError, match=message) as caught:
        load_base(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_damaged_single_files(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copytree(checkpoint.with_suffix(""), path.with_suffix(""))
    path.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(BaseModelError, match="cannot read the checkpoint .*; download it again"):
        load_base(path, device="cpu")
    tensors = load_file(checkpoint)
    del tensors["model.diffusion_model.time_embed.0.weight"]
    save_file(tensors, path)
    with pytest.raises(BaseModelError, match="cannot load the checkpoint") as caught:
        load_base(path, device="cpu")
    assert "\n" not in str(caught.value)


IN = "model.diffusion_model.input_blocks.0.0.weight"
CROSS = "model.diffusion_model.input_blocks.%d.1.transformer_blocks.0.attn2.to_k.weight"
SD2 = {IN: (320, 4, 3, 3), CROSS % 1: (320, 1024)}
SDXL = {IN: (320, 4, 3, 3), CROSS % 4: (640, 2048), "conditioner.embedders.1.model.x": (1,)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_mid_block.lora_up.weight": (1,)}, "an adapter: give it as adapter"),
        ({"anything": (1,)}, "no base model"),
        ({IN: (320, 4, 3, 3)}, "is of another design: only Stable Diffusion 1.x, 2.x and XL"),
        ({**SD2, IN: (320, 9, 3, 3)}, "inpainting and editing models cannot be used"),
        ({IN: (384, 4, 3, 3), CROSS % 4: (768, 1280), "conditioner.embedders.0.model.x": (1,)}, "the SDXL refiner"),
        ({IN: (320, 4, 3, 3), CROSS % 4: (640, 2048)}, "an SDXL without its text encoders"),
        ({**SDXL, "edm_mean": (4,)}, "another noise"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, tensors: dict[str, tuple[int, ...]], message: str) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(BaseModelError, match=message):
        load_base(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("tensors", "told", "expected"),
    [
        (SD2, "v", (True, False)),
        (SD2, "epsilon", (False, False)),
        (SDXL, None, (False, False)),
        (SDXL | {"v_pred": (1,)}, None, (True, False)),
        (SDXL | {"v_pred": (1,), "ztsnr": (1,)}, None, (True, True)),
        (SDXL, "v", (True, False)),
    ],
)
def test_what_a_file_says_of_its_objective(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], told: str | None, expected: tuple[bool, bool]
) -> None:
    metadata = {"modelspec.prediction_type": told} if told else None
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "x.safetensors", metadata)
    found = look_inside(tmp_path / "x.safetensors")
    assert (found.velocity, found.zero_snr) == expected


@pytest.mark.parametrize(("spread", "velocity"), [(0.05, False), (0.2, True)])
def test_second_generation_without_metadata_is_told_by_its_weights(
    tmp_path: Path, spread: float, velocity: bool
) -> None:
    norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    tensors = {name: torch.zeros(shape) for name, shape in SD2.items()}
    save_file(tensors | {norm: torch.linspace(-1, 1, 320) * spread * 3**0.5}, tmp_path / "x.safetensors")
    assert look_inside(tmp_path / "x.safetensors").velocity is velocity


def test_checkpoint_without_configurations_says_where_to_put_them(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "alone.safetensors")
    with pytest.raises(BaseModelError, match=r"unknown text width of 32: .* into the folder alone/"):
        load_base(tmp_path / "alone.safetensors")


def test_checkpoint_without_tokenizer_says_which_one(tmp_path: Path) -> None:
    source = tiny_folder(tmp_path / "wide", width=768)
    path = tiny_checkpoint(source, tmp_path / "alone.safetensors")
    shutil.rmtree(path.with_suffix(""))
    with pytest.raises(
        BaseModelError, match=r"tokenizer of openai/clip-vit-large-patch14: put .* into .*alone/tokenizer"
    ):
        load_base(path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(BaseModelError, match="can run code"):
        load_base(tmp_path / "model.ckpt")


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", "missing.safetensors", ""])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(BaseModelError, match="no base model|no model_index"):
        load_base(name)


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
        (GatedRepoError, "asks for consent: accept its terms"),
        (RepositoryNotFoundError, "neither a folder here nor on the hub"),
        (RemoteEntryNotFoundError, "holds no model_index.json"),
    ],
)
def test_refusals_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: type[HfHubHTTPError], message: str) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise kind("no", response=MagicMock(headers={}))

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    with pytest.raises(BaseModelError, match=message):
        load_base("some/model")


def test_unknown_device() -> None:
    with pytest.raises(ConfigError, match="'tpu' is not available here: use auto or cpu"):
        load_base("pocket", device="tpu")


@pytest.mark.parametrize("kind", ["tiny", "tiny_sdxl"])
def test_model_of_the_hub_is_loaded_from_its_cache(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hub is out of reach, as it is in tests, what was downloaded before will do."""
    folder: Path = request.getfixturevalue(kind)
    cached, commit = tmp_path / "models--some--model", "0" * 40
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base, expected = load_base("some/model", device="cpu"), load_base(folder, device="cpu")
    assert (base.id, base.family) == ("some/model", expected.family)
    assert family_of("some/model") == expected.family
    for name, part in base.parts.items():
        assert all(torch.equal(t, expected.parts[name].state_dict()[key]) for key, t in part.state_dict().items())
