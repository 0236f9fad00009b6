"""FILE:0.8,te=0.5: the text encoders' part of an adapter has a factor of its own wherever adapters are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError
from dreamtune.models import Base
from dreamtune.pipelines.adapter_names import text_of
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.analyze.run import analyze
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.run import fuse

Make = Callable[..., Path]


def scaled(file: AdapterFile, unet: float, text: float) -> AdapterFile:
    """The adapter, a LoRA, with these factors on the changes of its parts."""
    factor = {name: text if name.startswith("text_encoder") else unet for name in file.tensors}
    tensors = {name: it * (factor[name] if name.endswith(".up") else 1) for name, it in file.tensors.items()}
    return replace(file, tensors=tensors)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("strengths", "unet", "text"), [("0.8,te=0.5", 0.8, 0.4), ("te=0", 1, 0), ("0,te=3", 0, 0)])
def test_it_draws_so(merge: bool, strengths: str, unet: float, text: float, make: Make, base: Base) -> None:
    path = make("a")

    def drawn() -> list[torch.Tensor]:
        told = base.condition(["an a on the beach"])[0].embedding
        return [told, base.draw(["an a on the beach"], [0], size=32, steps=1, guidance=2.0)]

    plain = drawn()
    with base.attach(scaled(AdapterFile.load(path), unet, text)):
        expected = drawn()
    with AdapterRef.load(f"{path}:{strengths}").on(base, merge=merge):
        found = drawn()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0], plain[0]) == (text == 0)


def test_it_is_fused_so(make: Make, tmp_path: Path) -> None:
    """Blocks of the UNet beside it have their own factors."""
    path, out = make("a"), tmp_path / "out.safetensors"
    fuse(FuseConfig(adapters=(f"{path}:0.8,te=0.5,mid=2",)), out, lambda _: None)
    fused, own, seen = AdapterFile.load(out).adapters(), AdapterFile.load(path).adapters(), set()
    for layer, adapter in own.items():
        factor = 0.4 if layer.startswith("text_encoder.") else 1.6 if layer.startswith("mid_block.") else 0.8
        seen.add(factor)
        nothing = torch.empty(0)
        torch.testing.assert_close(fused[layer].delta_weight(nothing), factor * adapter.delta_weight(nothing))
    assert seen == {0.4, 0.8, 1.6}


def test_a_record_of_it_names_it_again(make: Make) -> None:
    use = AdapterRef.load(f"{make('a')}:0.8,te=0.5,up.1=0.25")
    told = use.to_dict()
    assert told["blocks"] == {"te": 0.5, "up.1": 0.25}
    again = AdapterRef.load(text_of(use.path, told))
    assert (again.strength, again.blocks, again.as_trained) == (0.8, use.blocks, False)


def test_an_adapter_without_text_encoders_has_no_strength_of_them(make: Make, base: Base) -> None:
    path = make("a")
    AdapterFile.load(path).part("unet").save(path)
    use = AdapterRef.load(f"{path}:te=0.5")
    with pytest.raises(ConfigError, match="a.safetensors changes nothing in the text encoders"):
        _ = use.ingredient
    with pytest.raises(ConfigError, match="a.safetensors changes nothing in the text encoders"), use.on(base):
        pass
    with base.attach(AdapterFile.load(path)):  # nothing is left on the base
        pass


def test_the_analyzer_compares_adapters_as_they_are(make: Make) -> None:
    with pytest.raises(ConfigError, match="compared at strength 1"):
        analyze(AnalyzeConfig(adapters=(f"{make('a')}:te=0.5",)), None, lambda _: None)
