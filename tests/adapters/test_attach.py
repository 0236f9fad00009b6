"""Putting adapters on models that do not fit, and the choice of layers."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from dreamtune.adapters import TARGETS, AdaptedLayer, attach, select_targets
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import ConfigError, IncompatibleModelError
from tests.adapters.nets import Net, frozen_net, inputs

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture(scope="module")
def unet(tiny: Path) -> UNet2DConditionModel:
    """One transformer block down, one in the middle and two up."""
    return UNet2DConditionModel.from_pretrained(tiny / "unet").requires_grad_(False)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("targets", "endings"),
    [
        ("attn", {f"attn{n}.{name}" for n in (1, 2) for name in PROJECTIONS}),
        ("cross-attn", {f"attn2.{name}" for name in PROJECTIONS}),
        ("kv", {"attn2.to_k", "attn2.to_v"}),
        (
            "attn+ff",
            {f"attn{n}.{name}" for n in (1, 2) for name in PROJECTIONS} | {"ff.net.0.proj", "ff.net.2"},
        ),
    ],
)
def test_named_targets_are_these_layers_of_every_block(
    unet: UNet2DConditionModel, targets: str, endings: set[str]
) -> None:
    paths = select_targets(unet, targets)
    assert {path.partition(".transformer_blocks.0.")[2] for path in paths} == endings
    assert len(paths) == len(set(paths)) == 4 * len(endings)
    assert all(isinstance(unet.get_submodule(path), nn.Linear) for path in paths)


def test_all_named_targets_are_tested() -> None:
    convolutions = {"attn+proj", "attn+ff+proj", "all"}  # in test_targets.py
    assert set(TARGETS) == {"attn", "cross-attn", "kv", "attn+ff", "text", "none"} | convolutions


def test_no_target_is_an_adapter_of_nothing() -> None:
    linear = nn.Sequential(nn.Linear(2, 2))
    with attach(linear, LoRAConfig(rank=2), "none") as attached:
        assert attached.attached
        assert list(attached.parameters()) == []
    assert not attached.attached


def test_text_is_the_attention_of_a_clip_text_encoder() -> None:
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    encoder = CLIPTextModel(config)
    paths = select_targets(encoder, "text")
    names = {f"{i}.self_attn.{name}_proj" for i in (0, 1) for name in ("q", "k", "v", "out")}
    assert {path.partition("layers.")[2] for path in paths} == names
    with attach(encoder, LoRAConfig(rank=2), "text") as attached:
        assert len(attached.adapters) == 8


@pytest.mark.parametrize(
    ("patterns", "named"), [({"attn3": 4}, "attn3.*none of the 32"), ({"(": 4}, r"'\('.*regular expression")]
)
def test_patterns_for_ranks_and_strengths_must_match(
    unet: UNet2DConditionModel, patterns: dict[str, int], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"ranks: .*{named}"):
        attach(unet, LoRAConfig(rank=2), ranks=patterns)
    with attach(unet, LoRAConfig(rank=2)) as attached:
        with pytest.raises(ConfigError, match=f"strengths: .*{named}"):
            attached.strengths = patterns
        with pytest.raises(ConfigError, match=r"strengths\['attn1'\] = nan"):
            attached.strengths = {"attn1": float("nan")}


def test_pattern_on_paths(unet: UNet2DConditionModel) -> None:
    paths = select_targets(unet, r"^mid_block\..*attn1\.to_q$")
    assert paths == ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert "time_embedding.linear_1" in select_targets(unet, "")


@pytest.mark.parametrize("targets", ["atn", "(", "conv3"])
def test_targets_without_a_layer_are_refused_with_the_choices(unet: UNet2DConditionModel, targets: str) -> None:
    with pytest.raises(ConfigError, match=r"cross-attn, kv"):
        select_targets(unet, targets)
    with pytest.raises(ConfigError, match="Linear"):
        select_targets(nn.Linear(2, 2), "")


def test_unet_trains_through_gradient_checkpointing(unet: UNet2DConditionModel) -> None:
    sample, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    with torch.no_grad():
        before = unet(sample, 10, prompt, return_dict=False)[0]
    with attach(unet, LoRAConfig(rank=2)) as attached:
        assert torch.equal(unet(sample, 10, prompt, return_dict=False)[0], before)
        for adapter in attached.adapters.values():
            nn.init.normal_(adapter.get_parameter("up"))
        attached.train()
        found = []
        for enabled in (False, True):
            (unet.enable_gradient_checkpointing if enabled else unet.disable_gradient_checkpointing)()
            loss = unet(sample, 10, prompt, return_dict=False)[0].square().mean()
            found.append(torch.autograd.grad(loss, list(attached.parameters())))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)
            assert one.count_nonzero()
    assert torch.equal(unet(sample, 10, prompt, return_dict=False)[0], before)


def test_other_kinds_of_linear_are_refused_and_nothing_changes() -> None:
    class Quantised(nn.Linear):
        pass

    net = frozen_net()
    net.block["second"] = Quantised(5, 6)
    with pytest.raises(IncompatibleModelError, match=r"block\.second is a Quantised.*remove"):
        attach(net, LoRAConfig(rank=2), "first|second")
    assert type(net.first) is nn.Linear
    with pytest.raises(IncompatibleModelError, match="Quantised"):
        AdaptedLayer.install(Quantised(2, 2))


def test_config_of_no_method_is_refused() -> None:
    class Other(LoRAConfig):
        pass

    with pytest.raises(ConfigError, match="Other belongs to no method"):
        attach(frozen_net(), Other(), "first")


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strength_must_be_finite(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength"):
        attach(frozen_net(), LoRAConfig(rank=2), "first", strength=strength)
    attached = attach(frozen_net(), LoRAConfig(rank=2), "first")
    with pytest.raises(ConfigError, match="strength"):
        attached.strength = strength
    assert attached.strength == 1


def test_scale_is_alpha_over_rank_or_its_root() -> None:
    assert LoRAConfig(rank=4, alpha=2).scale == 0.5
    assert LoRAConfig(rank=4, alpha=2, rslora=True).scale == 1


def test_start_depends_on_seed_and_path() -> None:
    net = nn.ModuleDict({name: nn.Linear(4, 4) for name in "ab"})
    with attach(net, LoRAConfig(rank=2), "a|b", seed=0) as attached:
        a, b = (adapter.get_parameter("down") for adapter in attached.adapters.values())
    with attach(net, LoRAConfig(rank=2), "a", seed=1) as attached:
        other = attached.adapters["a"].get_parameter("down")
    assert not torch.equal(a, b)
    assert not torch.equal(a, other)


def test_attached_adapter_is_not_called() -> None:
    attached = attach(frozen_net(), LoRAConfig(rank=2), "first")
    with pytest.raises(TypeError, match="call the model"):
        attached(inputs())


def test_adapter_follows_the_model_to_its_device() -> None:
    net = Net()
    attached = attach(net, LoRAConfig(rank=2), "first")
    net.to("meta")
    assert {parameter.device.type for parameter in attached.parameters()} == {"meta"}


def test_adapters_are_listed_by_layer() -> None:
    attached = attach(frozen_net(), LoRAConfig(rank=2, alpha=3), "first|second")
    assert list(attached.adapters) == ["first", "block.second"]
    assert [(path, layer.in_features, adapter.shape) for path, layer, adapter in attached.layers()] == [
        ("first", 7, (5, 7)),
        ("block.second", 5, (6, 5)),
    ]
    assert attached.config == LoRAConfig(rank=2, alpha=3.0)
    assert attached.method == "lora"
