"""What inspect refuses of a file, every other command refuses in the same words, before it loads a base."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.pipelines.cli.app import main

NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
FILES: dict[str, dict[str, Tensor]] = {
    "a layer of Flux": {f"lora_unet_double_blocks_0_img_mlp_0.lora_{side}.weight": torch.ones(2, 2) for side in "AB"},
    "its method is OFT, which is not supported": {f"{NAME}.oft_blocks": torch.ones(2, 2, 2)},
    "larger than any layer": {f"{NAME}.lokr_w{n}": torch.ones(300, 300) for n in "12"},
    "not a layer of Stable Diffusion": {f"first.lora_{side}.weight": torch.ones(2, 2) for side in "AB"},
    "contains NaN": {f"{NAME}.lora_{side}.weight": torch.full((2, 2), torch.nan) for side in "AB"},
}
COMMANDS = {
    "inspect": ["inspect", "FILE"],
    "generate": ["generate", "--adapter", "FILE", "--base", "gone", "--prompt", "a dog", "--out", "OUT"],
    "fuse": ["fuse", "FILE", "FILE", "--out", "OUT.safetensors"],
    "analyze": ["analyze", "FILE", "--base", "gone", "--out", "OUT"],
    "export": ["export", "FILE", "--format", "kohya", "--out", "OUT.safetensors"],
    "trim": ["trim", "FILE", "--out", "OUT.safetensors"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("message", FILES)
def test_all_commands_refuse_alike(
    message: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(FILES[message], path)
    words = [word.replace("FILE", str(path)).replace("OUT", str(out)) for word in COMMANDS[command]]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
