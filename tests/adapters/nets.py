"""A small network with every kind of layer that adapters meet, and adapters whose change is not zero."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from dreamtune.adapters import METHODS, Adapter, AdapterFile, AttachedAdapter, MethodConfig, attach
from dreamtune.adapters.layer import pristine_weight

RANK, ALPHA = 2, 5.0
"""Unequal, so that a forgotten or doubled alpha/rank shows."""

TRAINING = {"steps": 3, "lr": 1e-4, "targets": "attn", "sample_prompts": ["a photo"], "prior": True, "snr_gamma": None}
"""Settings as a training records them."""


class Net(nn.Module):
    """Two layers that are not square, one with a bias and one without, and one that no target names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.block = nn.ModuleDict({"second": nn.Linear(5, 6, bias=False)})
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block["second"](self.first(x).tanh()).tanh())


class PartOfUNet(nn.Module):
    """The same layers under paths that a UNet of Stable Diffusion has too, for what is read from other tools' files."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.time_embedding = nn.ModuleDict({"linear_1": net.first, "linear_2": net.block["second"]})
        self.last = net.last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.time_embedding["linear_2"](self.time_embedding["linear_1"](x).tanh()).tanh())


IN_UNET = {"first": "time_embedding.linear_1", "block.second": "time_embedding.linear_2"}
"""Path in Net -> the same layer's in PartOfUNet."""


class ConvNet(nn.Module):
    """The same of convolutions: one of every option, and one with a kernel of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 5, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), padding_mode="circular")
        self.block = nn.ModuleDict({"second": nn.Conv2d(5, 6, 1, bias=False)})
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block["second"](self.first(x).tanh()).tanh())


TARGETS = "first|second"
LAYERS = ("first", "block.second")


def frozen_net(dtype: torch.dtype = torch.float64) -> Net:
    """The same random network every time."""
    return _frozen(Net, dtype)


def frozen_conv_net(dtype: torch.dtype = torch.float64) -> ConvNet:
    """The same random network every time, of convolutions."""
    return _frozen(ConvNet, dtype)


_AnyNet = TypeVar("_AnyNet", Net, ConvNet)


def _frozen(kind: type[_AnyNet], dtype: torch.dtype) -> _AnyNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().to(dtype).requires_grad_(False)


def part_of_unet(dtype: torch.dtype = torch.float32) -> PartOfUNet:
    """The same under paths of a UNet."""
    return PartOfUNet(frozen_net(dtype))


def in_unet(file: AdapterFile) -> AdapterFile:
    """An adapter of Net as one of PartOfUNet."""
    layers = {IN_UNET[path]: record for path, record in file.layers.items()}
    tensors = {
        f"{IN_UNET[path]}.{name.removeprefix(f'{path}.')}": tensor
        for name, tensor in file.tensors.items()
        for path in IN_UNET
        if name.startswith(f"{path}.")
    }
    return AdapterFile(**{**vars(file), "layers": layers, "tensors": tensors})


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    """(2, 4, 7)"""
    return torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def pictures(dtype: torch.dtype = torch.float64) -> Tensor:
    """(2, 2, 5, 6)"""
    return torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def config_of(method: str, **options: object) -> MethodConfig:
    return METHODS[method].config_class(**{"rank": RANK, "alpha": ALPHA, **options})  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def disturb(adapter: Adapter, weight: Tensor, seed: int = 0) -> Adapter:
    """Bring an adapter into the middle of a training: schedules have begun, no parameter is at its start."""
    generator = torch.Generator().manual_seed(seed)

    def push() -> None:
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)

    push()
    for step in range(300):
        adapter.on_step(step, weight)
    push()
    return adapter


def attached_to(net: nn.Module, method: str, seed: int = 0, **options: object) -> AttachedAdapter:
    """An adapter as in the middle of a training, in the precision of a fp64 net, else fp32."""
    attached = attach(net, config_of(method, **options), TARGETS, seed)
    if net.get_submodule("first").weight.dtype == torch.float64:
        attached.double()
    for _, layer, adapter in attached.layers():
        disturb(adapter, layer.base_weight, seed)
    return attached


def single(method: str, net: Net | ConvNet | None = None, **options: object) -> tuple[Adapter, Tensor]:
    """One fp64 adapter in evaluation mode as in the middle of a training, and the weight, a matrix, it is for."""
    weight = pristine_weight((net or frozen_net()).first).detach()
    adapter = METHODS[method](config_of(method, **options), *weight.shape)
    adapter.initialize(weight, torch.Generator().manual_seed(0))
    return disturb(adapter.double().eval(), weight), weight


def make_file(
    net: nn.Module | None = None, training: Mapping[str, object] = TRAINING, base: str = "pocket"
) -> AdapterFile:
    """The file of a LoRA as in the middle of a training, on the fp32 net if no other is given."""
    with attached_to(net or frozen_net(torch.float32), "lora") as attached:
        return AdapterFile.from_attached(attached, base=base, token="sks", class_word="dog", training=training)
