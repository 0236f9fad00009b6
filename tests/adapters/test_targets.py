"""Named targets with convolutions, on the UNets of SD 1.x, 2.x and XL at full size: on the meta device."""

# diffusers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from dreamtune import pocket
from dreamtune.adapters import TARGETS, AdaptedConv2d, attach, select_targets
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import ConfigError, IncompatibleModelError
from dreamtune.models.published import published_configs
from tests.adapters.nets import frozen_conv_net

LORA = {"Transformer2DModel"}
LOCON = {*LORA, "ResnetBlock2D", "Downsample2D", "Upsample2D"}
"""Classes of modules all of whose layers sd-scripts adapts, as LoRA and as LoCon (`conv_dim`)."""


@cache
def unet_of(family: str) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**published_configs(family, False, False)["unet/config.json"])


def inside(unet: nn.Module, classes: set[str]) -> list[str]:
    """Paths of all Linear and Conv2d layers in modules of these classes."""
    outer = tuple(f"{name}." for name, module in unet.named_modules() if type(module).__name__ in classes)
    return [
        name
        for name, module in unet.named_modules()
        if name.startswith(outer) and isinstance(module, nn.Linear | nn.Conv2d)
    ]


@pytest.mark.parametrize(
    ("family", "attention", "projections", "lora", "locon"),
    [("sd1", 128, 32, 192, 278), ("sd2", 128, 32, 192, 278), ("sdxl", 560, 22, 722, 788)],
)
def test_numbers_of_layers_are_those_of_sd_scripts(
    family: str, attention: int, projections: int, lora: int, locon: int
) -> None:
    unet = unet_of(family)
    assert len(select_targets(unet, "attn")) == attention
    assert len(select_targets(unet, "attn+ff")) == lora - projections
    assert len(select_targets(unet, "attn+proj")) == attention + projections
    assert select_targets(unet, "attn+ff+proj") == inside(unet, LORA)
    assert len(inside(unet, LORA)) == lora
    assert select_targets(unet, "all") == inside(unet, LOCON)
    assert len(inside(unet, LOCON)) == locon
    beside = {path.partition(".")[0] for path in set(select_targets(unet, "")) - set(select_targets(unet, "all"))}
    assert beside - {"add_embedding"} == {"conv_in", "time_embedding", "conv_out"}


def test_pocket_has_all_of_them_too() -> None:
    configs = list((Path(pocket.__file__).parent / "weights" / "base").rglob("unet/config.json"))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads(configs[0].read_text()))
    counts = {name: len(select_targets(unet, name)) for name in TARGETS if name != "text"}
    assert counts["all"] == len(inside(unet, LOCON)) and counts["attn+ff+proj"] == len(inside(unet, LORA))
    assert (
        counts["attn+proj"] - counts["attn"] == counts["attn+ff+proj"] - counts["attn+ff"] == counts["kv"]
    )  # two a transformer
    assert 0 < counts["kv"] < counts["attn"] < counts["attn+ff"] < counts["attn+ff+proj"] < counts["all"]


def test_projections_of_sd1_are_convolutions_and_of_sd2_linear_layers() -> None:
    kinds = {
        f: {type(unet_of(f).get_submodule(p)) for p in select_targets(unet_of(f), "proj_")} for f in ("sd1", "sd2")
    }
    assert kinds == {"sd1": {nn.Conv2d}, "sd2": {nn.Linear}}


def test_grouped_convolutions_are_never_matched_by_name_and_refused_by_path() -> None:
    def resnet(groups: int) -> nn.Module:
        return nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3, groups=groups), "conv2": nn.Conv2d(4, 4, 3)})

    net = nn.ModuleDict({"resnets": nn.ModuleList([resnet(2), resnet(1)])})
    assert select_targets(net, "all") == ["resnets.0.conv2", "resnets.1.conv1", "resnets.1.conv2"]
    with pytest.raises(IncompatibleModelError, match=r"resnets\.0\.conv1 is a Conv2d with 2 groups"):
        attach(net, LoRAConfig(rank=2), "conv1")
    assert type(net.get_submodule("resnets.1.conv1")) is nn.Conv2d


def test_a_pattern_finds_convolutions_too() -> None:
    with attach(frozen_conv_net(), LoRAConfig(rank=2), "^first$") as attached:
        ((path, layer, adapter),) = attached.layers()
        assert (path, type(layer), adapter.shape) == ("first", AdaptedConv2d, (5, 2 * 3 * 2))
    with pytest.raises(ConfigError, match="no Linear or Conv2d layer"):
        select_targets(frozen_conv_net(), "^second$")
