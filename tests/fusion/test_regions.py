"""Regions: the whole picture is plain generation, an empty one is none, and each adapter acts in its own half."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageChops
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, NewWord, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import ConfigError
from dreamtune.fusion.regions import Region, box_mask, routed, shares
from dreamtune.models import load_base
from dreamtune.pipelines.cli import main
from dreamtune.pipelines.regions import RegionUse, make_regions
from tests.adapters.nets import disturb

FULL, NONE = torch.ones(64, 64), torch.zeros(64, 64)


@pytest.fixture(scope="module")
def unet(tiny: Any) -> nn.Module:
    return load_base(tiny, "cpu").unet


def adapter(unet: nn.Module, seed: int) -> AdapterFile:
    with attach(unet, LoRAConfig(rank=2, alpha=2.0), seed=seed) as attached:
        for index, (_, layer, it) in enumerate(attached.layers()):
            disturb(it, layer.pristine, 100 * seed + index)
        return AdapterFile.from_attached(attached, base="", trigger="", class_word="", training={})


def region(file: AdapterFile, mask: Tensor, embedding: Tensor) -> Region:
    meta = torch.empty(0)
    factors = {path: it.low_rank(meta) for path, it in file.adapters().items()}
    return Region(mask, embedding, {path: (up.detach(), down.detach()) for path, (up, down) in factors.items()})  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]


def prompt(seed: int) -> Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def noise(unet: Any, *prompts: Tensor, side: int = 8) -> Tensor:
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)).expand(len(prompts), -1, -1, -1)
    return unet(x, 10, torch.stack(prompts)).sample


@pytest.mark.parametrize("guided", [False, True])
def test_a_region_of_the_whole_picture_is_plain_generation(unet: nn.Module, guided: bool) -> None:
    file = adapter(unet, 1)
    unwanted = [prompt(8)] if guided else []
    with file.attach(unet):
        expected = noise(unet, *unwanted, prompt(1))
    with routed(unet, [region(file, FULL, prompt(1))], guided=guided):
        found = noise(unet, *unwanted, prompt(9))  # the context prompt has no place
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected[-1] - noise(unet, prompt(1))[0]).abs().max() > 0.1


@pytest.mark.parametrize("side", [5, 8, 9, 10])
def test_pictures_of_any_size_have_regions(side: int) -> None:
    """Latents of an odd side are halved by rounding up, again and again: 5, 3, 2."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()
    plain = noise(unet, prompt(1), side=side)
    halves = [box_mask(box, (64, 64)) for box in ((0, 0, 0.5, 1), (0.5, 0, 1, 1))]
    with routed(unet, [Region(mask, prompt(1), {}) for mask in halves], guided=False):
        torch.testing.assert_close(noise(unet, prompt(9), side=side), plain, rtol=1e-4, atol=1e-5)


def test_an_empty_region_is_none(unet: nn.Module) -> None:
    plain = noise(unet, prompt(8), prompt(9))
    with routed(unet, [region(adapter(unet, 1), NONE, prompt(1))], guided=True):
        torch.testing.assert_close(noise(unet, prompt(8), prompt(9)), plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(noise(unet, prompt(8), prompt(9)), plain)  # afterwards nothing is left


@torch.no_grad()
def test_swapped_regions_swap_the_halves(unet: Any) -> None:
    """Of what an attention layer gives for the same input: each half is exactly what its adapter alone would make."""
    files, name = [adapter(unet, 1), adapter(unet, 2)], "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    halves = [box_mask((0, 0, 0.5, 1), (8, 8)), box_mask((0.5, 0, 1, 1), (8, 8))]
    hidden = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(3))
    seen: list[Tensor] = []

    def run(prompt_of_call: Tensor) -> Tensor:
        layer = unet.get_submodule(name)
        hook = layer.register_forward_pre_hook(lambda m, args, kw: ((hidden,), kw), with_kwargs=True)
        after = layer.register_forward_hook(lambda m, args, out: seen.append(out))
        noise(unet, prompt_of_call)
        hook.remove()
        after.remove()
        return seen.pop().view(8, 8, 32)

    alone = []
    for number, file in enumerate(files):
        with file.attach(unet):
            alone.append(run(prompt(number)))
    for order in ([0, 1], [1, 0]):
        regions = [region(files[which], mask, prompt(which)) for which, mask in zip(order, halves, strict=True)]
        with routed(unet, regions, guided=False):
            found = run(prompt(9))
        torch.testing.assert_close(found[:, :4], alone[order[0]][:, :4], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[:, 4:], alone[order[1]][:, 4:], rtol=1e-4, atol=1e-4)
    assert (alone[0] - alone[1]).abs().max() > 0.1


def test_masks_share_the_picture() -> None:
    left, right = box_mask((0, 0, 0.75, 1), (8, 8)), box_mask((0.25, 0, 1, 0.5), (8, 8))
    own, rest = shares([left, right])
    assert torch.equal(own.sum(0) + rest, torch.ones(8, 8))
    assert own[:, 0, 4].tolist() == [0.5, 0.5]
    assert (own[0, 7, 0], rest[7, 7]) == (1, 1)
    soft = box_mask((0, 0, 0.5, 1), (8, 8), softness=0.5)
    assert soft[0].tolist() == pytest.approx([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])


@pytest.mark.parametrize(
    "box, message", [((0, 0, 1.1, 1), "outside"), ((-0.1, 0, 1, 1), "outside"), ((0.5, 0, 0.5, 1), "no area")]
)
def test_impossible_boxes(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        box_mask(box, (8, 8))


def draw(tiny: Path, out: Path, *arguments: str) -> Image.Image:
    common = ["--base", str(tiny), "--n", "1", "--steps", "2", "--device", "cpu", "--out", str(out)]
    assert main(["generate", *common, *arguments]) == 0
    return Image.open(out / "0000.png")


def test_command(tiny: Path, unet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    adapter(unet, 1).save(path)
    plain = draw(tiny, tmp_path / "1", "--prompt", "a dog", "--adapter", f"{path}:0.5")
    whole = draw(tiny, tmp_path / "2", "--prompt", "a beach", "--region", f"{path}:0.5@0,0,1,1=a dog")
    half = draw(tiny, tmp_path / "3", "--prompt", "a beach", "--region", f"{path}:0.5@0,0,0.5,1=a dog")
    apart = [max(ImageChops.difference(plain, it).tobytes()) for it in (whole, half)]
    assert apart[0] <= 1 < apart[1]
    told = json.loads(half.info["dreamtune"])["regions"]
    assert [(it["file"], it["box"], it["prompt"]) for it in told] == [("a.safetensors", [0, 0, 0.5, 1], "a dog")]


def test_each_prompt_is_read_by_its_adapters_own_text_encoder_and_word(tiny: Path, tmp_path: Path) -> None:
    base = load_base(tiny, "cpu")
    prompts = ["a sks dog", "a dog"]
    plain = [it.embedding for it in base.condition(prompts)]
    word = NewWord("sks", {"text_encoder": torch.full((2, 32), 0.5)})
    parts = {
        "unet": attach(base.unet, LoRAConfig(rank=2)),
        "text_encoder": attach(base.text_encoder, LoRAConfig(rank=2), "text"),
    }
    for index, (_, layer, it) in enumerate(at for part in parts.values() for at in part.layers()):
        disturb(it, layer.pristine, index)
    about = {"base": "", "trigger": "sks", "class_word": "", "training": {}}
    file = AdapterFile.from_attached(
        parts["unet"], text_encoders={"text_encoder": parts["text_encoder"]}, word=word, **about
    )
    for part in parts.values():
        part.detach()
    file.save(tmp_path / "a.safetensors")
    with base.put_on(file):
        expected = base.condition(prompts[:1])[0].embedding
    uses = [
        RegionUse.load(f"{tmp_path / 'a.safetensors'}:{s}@0,0,1,1={p}") for s, p in ((1, prompts[0]), (0, prompts[1]))
    ]
    own, without = make_regions(uses, base, any_base=False)
    torch.testing.assert_close(own.embedding, expected, rtol=1e-5, atol=1e-5)
    assert (own.embedding - plain[0]).abs().max() > 0.1
    assert torch.equal(without.embedding, plain[1])
    assert own.deltas.keys() == parts["unet"].adapters.keys(), "changes of text encoders are in the embedding alone"
    assert not any((up @ down).any() for up, down in without.deltas.values())
    (less,) = make_regions([RegionUse.load(f"{tmp_path / 'a.safetensors'}:0.5,mid=0@0,0,1,1=x")], base, any_base=False)
    for path, (up, down) in less.deltas.items():
        whole = own.deltas[path][0] @ own.deltas[path][1]
        torch.testing.assert_close(up @ down, whole * (0.0 if path.startswith("mid_block") else 0.5))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}@0,0,1=a dog", "must be four numbers"),
        ("{}@0,0,1,x=a dog", "must be four numbers"),
        ("{}@0,0,2,1=a dog", "reaches outside the picture"),
        ("{}@0,0,0,1=a dog", "has no area"),
        ("{}", "must be written FILE@x0,y0,x1,y1=PROMPT"),
        ("{}:nan@0,0,1,1=a dog", "is not a number"),
    ],
)
def test_bad_regions_draw_nothing(
    text: str, message: str, tiny: Path, unet: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out"
    adapter(unet, 1).save(path)
    arguments = ["--base", str(tiny), "--prompt", "x", "--region", text.format(path), "--out", str(out)]
    assert main(["generate", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
