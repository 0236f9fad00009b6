"""Regions: the whole picture is plain generation, an empty one is none, and each adapter acts in its own half."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, Delta, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import ConfigError
from dreamtune.generation.blend import blended
from dreamtune.generation.masks import box_mask, overlaps, shares, softened
from dreamtune.generation.regions import Region, routed
from dreamtune.models import load_base
from tests.adapters.nets import disturb

FULL, NONE = torch.ones(64, 64), torch.zeros(64, 64)


@pytest.fixture(scope="module")
def unet(tiny: Any) -> nn.Module:
    return load_base(tiny, "cpu").unet


def adapter(unet: nn.Module, seed: int, targets: str = "attn") -> AdapterFile:
    with attach(unet, LoRAConfig(rank=2, alpha=2.0), targets, seed=seed) as attached:
        for index, (_, layer, it) in enumerate(attached.layers()):
            disturb(it, layer.base_weight, 100 * seed + index)
        return AdapterFile.from_attached(attached, base="", token="", class_word="", training={})


def region(file: AdapterFile, mask: Tensor, embedding: Tensor) -> Region:
    meta = torch.empty(0)
    return Region(mask, embedding, {path: Delta.of_adapter(it, meta) for path, it in file.adapters().items()})


def prompt(seed: int) -> Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def noise(unet: Any, *prompts: Tensor, side: int = 8) -> Tensor:
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)).expand(len(prompts), -1, -1, -1)
    return unet(x, 10, torch.stack(prompts)).sample


@pytest.mark.parametrize("mode", [routed, blended])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("targets", ["attn", "all"])
def test_a_region_of_the_whole_picture_is_plain_generation(
    unet: nn.Module, guided: bool, targets: str, mode: Any
) -> None:
    file = adapter(unet, 1, targets)
    unwanted = [prompt(8)] if guided else []
    with file.attach(unet):
        expected = noise(unet, *unwanted, prompt(1))
    with mode(unet, [region(file, FULL, prompt(1))], guided=guided):
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


@pytest.mark.parametrize("mode", [routed, blended])
def test_an_empty_region_is_none(unet: nn.Module, mode: Any) -> None:
    plain = noise(unet, prompt(8), prompt(9))
    with mode(unet, [region(adapter(unet, 1), NONE, prompt(1))], guided=True):
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


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("name", "seen_at"),
    [
        ("down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.conv1"),
        ("mid_block.resnets.0.time_emb_proj", "mid_block.resnets.0.norm2"),
        ("down_blocks.0.downsamplers.0.conv", "down_blocks.0.downsamplers.0.conv"),
        ("down_blocks.0.attentions.0.proj_in", "down_blocks.0.attentions.0.proj_in"),
        ("up_blocks.0.resnets.0.conv_shortcut", "up_blocks.0.resnets.0.conv_shortcut"),
        ("conv_in", "conv_in"),
    ],
)
@torch.no_grad()
def test_convolutions_act_in_their_halves(unet: nn.Module, name: str, seen_at: str, whole: bool) -> None:
    """Of the one layer that is adapted: each half is exactly what its adapter alone would make."""
    files = [adapter(unet, seed, f"^{name}$") for seed in (1, 2)]
    halves = [box_mask((0, 0, 0.5, 1), (8, 8)), box_mask((0.5, 0, 1, 1), (8, 8))]
    at, seen = unet.get_submodule(seen_at), list[Tensor]()

    def run() -> Tensor:
        if seen_at == name:
            hook = at.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        else:
            hook = at.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
        noise(unet, prompt(9))
        hook.remove()
        return seen.pop()

    alone = []
    for file in files:
        with file.attach(unet):
            alone.append(run())
    assert (alone[0] - alone[1]).abs().max() > 0.02
    regions = [region(file, mask, prompt(9)) for file, mask in zip(files, halves, strict=True)]
    if whole:
        dense = [{path: Delta.of_matrix(it.dense()) for path, it in own.deltas.items()} for own in regions]
        regions = [Region(own.mask, own.embedding, deltas) for own, deltas in zip(regions, dense, strict=True)]
    with routed(unet, regions, guided=False):
        found = run()
    middle = found.shape[3] // 2
    torch.testing.assert_close(found[..., :middle], alone[0][..., :middle], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[..., middle:], alone[1][..., middle:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["time_embedding.linear_1"])
def test_what_acts_on_the_whole_picture_has_no_region(unet: nn.Module, name: str) -> None:
    file = adapter(unet, 1, f"^{name}$")
    with (
        pytest.raises(ConfigError, match=f"{name} acts on the whole image"),
        routed(unet, [region(file, FULL, prompt(1))], guided=False),
    ):
        pass


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


def test_painted_masks_get_soft_edges_as_boxes_have() -> None:
    hard = box_mask((0.25, 0, 1, 0.5), (64, 64))
    torch.testing.assert_close(softened(hard, 0.25), box_mask((0.25, 0, 1, 0.5), (64, 64), 0.25), rtol=0, atol=0.06)
    assert softened(hard, 0) is hard


def test_overlaps_are_found_and_soft_edges_that_meet_are_none() -> None:
    boxes = [(0, 0, 0.5, 1), (0.5, 0, 1, 1), (0.25, 0, 0.75, 0.5)]
    masks = [box_mask(box, (64, 64), 0.1) for box in boxes]
    assert overlaps(masks[:2]) == []
    found = overlaps(masks)
    assert [(first, second) for first, second, _ in found] == [(0, 2), (1, 2)]
    assert all(share == pytest.approx(0.125, abs=0.02) for *_, share in found)


def symmetric_unet() -> UNet2DConditionModel:
    """A UNet that turns mirrored noise into a mirrored prediction: its kernels are symmetric, and nothing is halved."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()
    with torch.no_grad():
        for module in unet.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    return unet


@torch.no_grad()
@pytest.mark.parametrize("mode", [routed, blended])
def test_regions_that_swap_places_swap_the_halves_of_the_prediction(mode: Any) -> None:
    unet = symmetric_unet()
    sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    context = torch.stack([prompt(8), prompt(9)])
    halves = [box_mask(box, (64, 64), 0.1) for box in ((0, 0, 0.5, 1), (0.5, 0, 1, 1))]
    files = [adapter(unet, 1), adapter(unet, 2)]

    def predicted(order: tuple[int, int], noise: Tensor) -> Tensor:
        regions = [region(files[which], mask, prompt(which)) for which, mask in zip(order, halves, strict=True)]
        with mode(unet, regions, guided=True):
            return unet(noise, 10, context).sample

    one, two = predicted((0, 1), sample), predicted((1, 0), sample.flip(-1))
    torch.testing.assert_close(two.flip(-1), one, rtol=1e-4, atol=1e-4)
    assert (predicted((0, 1), sample.flip(-1)).flip(-1) - one).abs().max() > 0.1, "the places matter"


@torch.no_grad()
def test_keys_are_kept_for_a_prompt_and_made_anew_for_another_or_when_weights_change(unet: nn.Module) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    contexts = [torch.stack([prompt(7), prompt(8)]), torch.stack([prompt(8), prompt(9)])]
    half, file, other = box_mask((0, 0, 0.5, 1), (64, 64)), adapter(unet, 1), adapter(unet, 3)

    def fresh(context: Tensor, deltas: Any = None) -> Tensor:
        own = region(file, half, prompt(1))
        with routed(unet, [own if deltas is None else replace(own, deltas=deltas)], guided=True):
            return unet(x, 10, context).sample

    expected = [fresh(context) for context in contexts]
    without = fresh(contexts[1], {})
    with other.attach(unet):
        changed = fresh(contexts[1])
    with routed(unet, [region(file, half, prompt(1))], guided=True) as routing:
        for context, wanted in zip((*contexts, contexts[1]), (*expected, expected[1]), strict=True):
            torch.testing.assert_close(unet(x, 10, context).sample, wanted)
        with other.attach(unet):
            routing.forget()
            torch.testing.assert_close(unet(x, 10, contexts[1]).sample, changed)
        routing.change([{}])
        torch.testing.assert_close(unet(x, 10, contexts[1]).sample, without)
    assert (without - expected[1]).abs().max() > 0.1


def test_changes_without_small_factors_act_in_regions_as_those_with_them(unet: nn.Module) -> None:
    file, meta = adapter(unet, 1), torch.empty(0)
    left = box_mask((0, 0, 0.6, 0.8), (64, 64), 0.1)
    small = region(file, left, prompt(1))
    dense = {path: Delta.of_matrix(Delta.of_adapter(it, meta).dense()) for path, it in file.adapters().items()}
    found = []
    for deltas in (small.deltas, dense):
        with routed(unet, [Region(left, prompt(1), deltas)], guided=True):
            found.append(noise(unet, prompt(8), prompt(9)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
