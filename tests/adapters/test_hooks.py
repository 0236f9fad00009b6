"""Layers with a forward of their own, as offloading and casting give them, and quantised weights: never silently."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from torch import Tensor, nn

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.layer import AdaptedLayer
from dreamtune.errors import IncompatibleModelError
from tests.adapters.nets import TARGETS, attached_to, config_of, frozen_conv_net, frozen_net, inputs, pictures

CPU = torch.device("cpu")


def offload(net: nn.Module) -> None:
    cpu_offload(net, execution_device=CPU)


def cast(net: nn.Module) -> None:
    apply_layerwise_casting(net, torch.bfloat16, torch.float32)


def offload_leaves(net: nn.Module) -> None:
    apply_group_offloading(net, onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


HOOKS: dict[str, Callable[[nn.Module], None]] = {"accelerate": offload, "casting": cast, "leaves": offload_leaves}
every_hook = pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
both_kinds = pytest.mark.parametrize(
    ("make", "data"), [(frozen_net, inputs), (frozen_conv_net, pictures)], ids=["linear", "convolution"]
)


def rounded(net: nn.Module, hook: Callable[[nn.Module], None]) -> nn.Module:
    """What a hook does to the base by itself: casting stores it in bf16."""
    return net.to(torch.bfloat16).float() if hook is cast else net


@every_hook
@both_kinds
@pytest.mark.parametrize("method", ["lora", "dora", "lokr", "full"])
def test_attached_first_it_acts_and_comes_off(hook: Any, make: Any, data: Any, method: str) -> None:
    x: Tensor = data(torch.float32)
    plain, net = rounded(make(torch.float32), hook), make(torch.float32)
    expected = rounded(make(torch.float32), hook)
    base, attached = plain(x), attached_to(net, method)
    with torch.no_grad():
        attached_to(expected, method).load_state_dict(attached.state_dict())
        hook(net)
        assert not torch.allclose(net(x), base, atol=0.05)
        torch.testing.assert_close(net(x), expected(x))
        attached.strength = 0
        assert torch.equal(net(x), base)
        attached.strength = 1
        torch.testing.assert_close(net(x), expected(x))
        attached.detach()
        assert torch.equal(net(x), base)
        assert not any(isinstance(module, AdaptedLayer) for module in net.modules())


@every_hook
@both_kinds
def test_hooked_first_it_is_refused_and_nothing_changes(hook: Any, make: Any, data: Any) -> None:
    net, x = make(torch.float32), data(torch.float32)
    hook(net)
    with torch.no_grad():
        before = net(x)
        with pytest.raises(IncompatibleModelError, match="layer first is a .* attach the adapter before offloading"):
            attach(net, config_of("lora"), TARGETS)
        assert torch.equal(net(x), before)


@both_kinds
@pytest.mark.parametrize("method", METHODS)
def test_after_the_hooks_are_gone_it_acts(make: Any, data: Any, method: str) -> None:
    """accelerate leaves the old forward in the layer itself, where it would hide every other."""
    net, x = make(torch.float32), data(torch.float32)
    base = net(x)
    offload(net)
    remove_hook_from_submodules(net)
    net.load_state_dict(make(torch.float32).state_dict(), assign=True)
    assert "forward" in vars(net.first)
    attached = attached_to(net, method)
    assert not torch.allclose(net(x), base, atol=0.02)
    attached.detach()
    assert torch.equal(net(x), base)
    assert vars(net.first).keys() == vars(make().first).keys()


@both_kinds
def test_hooks_may_go_before_the_adapter(make: Any, data: Any) -> None:
    net, x = make(torch.float32), data(torch.float32)
    base, attached = net(x), attached_to(net, "lora")
    adapted = net(x)
    offload(net)
    with torch.no_grad():
        net(x)
        remove_hook_from_submodules(net)
        net.load_state_dict(make(torch.float32).state_dict(), assign=True)
        assert torch.equal(net(x), adapted)
        attached.detach()
        assert torch.equal(net(x), base)
    assert "forward" not in vars(net.first)


def test_a_second_adapter_acts_behind_a_hook_unless_the_weight_is_elsewhere() -> None:
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    with torch.no_grad():
        first = attached_to(net, "lora")
        offload_leaves(net)
        one = net(x)
        second = attached_to(net, "lora", seed=1)
        both = net(x)
        assert not torch.allclose(both, one, atol=0.02)
        second.detach()
        assert torch.equal(net(x), one)
        first.detach()
    other = frozen_net(torch.float32)
    attached_to(other, "lora")
    offload(other)
    with pytest.raises(IncompatibleModelError, match="first is a AdaptedLinear"):
        attach(other, config_of("dora"), TARGETS)


def test_what_needs_an_offloaded_weight_says_so() -> None:
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    attached = attached_to(net, "lora")
    offload(net)
    with torch.no_grad():
        live = net(x)
        with pytest.raises(IncompatibleModelError, match="offloaded and cannot be changed: remove the hooks"):
            attached.merge()
        with pytest.raises(IncompatibleModelError, match="offloaded: remove the offloading"):
            AdapterFile.from_attached(attached, base="", token="", class_word="", training={})
        assert torch.equal(net(x), live)
    merged = frozen_net(torch.float32)
    on = attached_to(merged, "lora")
    on.merge()
    offload(merged)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), live)  # the weights that were offloaded have it in them
        for change in (on.unmerge, on.detach):
            with pytest.raises(IncompatibleModelError, match="offloaded"):
                change()
        torch.testing.assert_close(merged(x), live)
        assert on.strength == 1


class Int8Tensor(Tensor):
    """As torchao's, a layer's own operation can be done with it, and others not."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        others = (torch.addmm, torch.Tensor.view, torch.Tensor.add, torch.add, torch.Tensor.mul, torch.addcmul)
        assert func not in others, f"no {func} of quantised weights"
        found: Any = super().__torch_function__(func, types, args, kwargs or {})
        return found.as_subclass(Tensor) if func in (torch.nn.functional.linear, torch.conv2d) else found


def quantised(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().as_subclass(Int8Tensor), requires_grad=False)


@pytest.mark.parametrize("kind", [nn.Linear(4, 4), nn.Conv2d(4, 4, 3)], ids=lambda it: type(it).__name__)
def test_quantised_weights_are_refused(kind: nn.Linear | nn.Conv2d) -> None:
    """As torchao has them: a tensor of its own class in a plain layer."""
    kind.weight = quantised(kind.weight)
    with pytest.raises(
        IncompatibleModelError, match=r"layer it is a .* a weight of Int8Tensor: load .* without quantization"
    ):
        attach(nn.ModuleDict({"it": kind}), config_of("lora"), "it")
    assert type(kind) in (nn.Linear, nn.Conv2d)


@pytest.mark.parametrize("method", METHODS)
@both_kinds
def test_what_is_quantised_later_acts_or_says_that_it_cannot(make: Any, data: Any, method: str) -> None:
    net, x = make(torch.float32), data(torch.float32)
    base = net(x)
    attached = attached_to(net, method)
    expected = net(x)
    for name in ("first", "block.second"):
        layer = net.get_submodule(name)
        layer.weight = quantised(layer.weight)
    assert type(net.first.weight) is Int8Tensor
    if next(iter(attached.adapters.values())).uses_weight:
        with pytest.raises(IncompatibleModelError, match="change of DoRA depends on weights that were quantized"):
            net(x)
    else:
        torch.testing.assert_close(net(x), expected)
    attached.detach()
    assert torch.equal(net(x), base)


@pytest.mark.parametrize("method", METHODS)
def test_without_alpha_the_scale_is_1(method: str) -> None:
    kind = METHODS[method].config_class
    for rank in (2, 16):
        config = kind(rank=rank)
        assert config.scale == 1
        assert config.to_dict()["alpha"] == rank
        assert type(config.alpha) is float
    assert kind(rank=4, alpha=8).scale == 2
    assert kind(rank=4).with_rank(8).alpha == 8
