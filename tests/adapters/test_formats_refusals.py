"""What cannot be read is refused when the file is read, by its name: other models, other methods, no adapter at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.adapters.formats import read_adapter
from dreamtune.errors import AdapterFileError

PATH = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{PATH.replace('.', '_')}"


def refusal(folder: Path, names: list[str], ndim: int = 2) -> str:
    save_file({name: torch.ones([2] * ndim) for name in names}, folder / "a.safetensors")
    with pytest.raises(AdapterFileError) as error:
        read_adapter(folder / "a.safetensors")
    return str(error.value)


def lora(*names: str) -> list[str]:
    return [f"{name}.lora_{letter}.weight" for name in names for letter in "AB"]


OTHERS = {
    "transformer.single_transformer_blocks.0.attn.to_q": "Flux",
    "lora_unet_double_blocks_18_img_attn_qkv": "Flux",
    "diffusion_model.single_blocks.37.linear1": "Flux",
    "lora_unet_double_blocks_19_img_attn_qkv": "HunyuanVideo",
    "diffusion_model.single_blocks.39.linear1": "HunyuanVideo",
    "diffusion_model.single_blocks.47.linear1": "Flux 2",
    "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": "Flux 2",
    "lora_unet_joint_blocks_0_x_block_attn_qkv": "SD3",
    "transformer.transformer_blocks.0.attn.to_q": "Flux, SD3 or Qwen-Image",
    "transformer.transformer_blocks.0.img_mlp.net.0.proj": "Qwen-Image",
    "diffusion_model.layers.0.attention.qkv": "Z-Image or Lumina",
    "diffusion_model.layers.29.attention.to_q": "Z-Image or Lumina",
    "diffusion_model.blocks.0.cross_attn.k": "Wan",
    "diffusion_model.blocks.0.ffn.2": "Wan",
    "transformer.transformer_blocks.0.attn1.to_q": "a DiT such as PixArt, LTX-Video or CogVideoX",
    "lora_prior_unet_down_blocks_0_1_to_q": "Stable Cascade",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": "T5, a text encoder of SD3, Flux and others",
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q": (
        "T5, a text encoder of SD3, Flux and others"
    ),
    "base_model.model.model.layers.0.self_attn.q_proj": "an LLM",
    "base_model.model.model.layers.3.mlp.gate_proj": "an LLM",
    "base_model.model.transformer.h.0.attn.c_attn": "an LLM",
    "base_model.model.bert.encoder.layer.0.attention.self.query": "BERT, ViT or another encoder",
    "vision_model.encoder.layers.0.self_attn.q_proj": "CLIP's image encoder",
    "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q": "AnimateDiff",
    "unet.down_blocks.0.attentions.0.add_k_proj": "Kandinsky",
}


@pytest.mark.parametrize("name", OTHERS)
def test_layers_of_other_models(name: str, tmp_path: Path) -> None:
    """Also where layers of Stable Diffusion stand beside them, as those of CLIP do in files for Flux and SD3."""
    for beside in ((), ("lora_te1_text_model_encoder_layers_0_mlp_fc1",)):
        message = refusal(tmp_path, lora(name, *beside))
        assert f"{name} is a layer of {OTHERS[name]}: only adapters of Stable Diffusion 1.x, 2.x and XL" in message


@pytest.mark.parametrize(
    "name",
    [
        "first",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_x",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj_",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn3_to_q",
        "lora_unet_input_blocks_2_0_op",  # the number of a resnet
        "lora_unet_output_blocks_2_3_conv",
        "lora_unet_middle_block_1_in_layers_2",
        "lora_unet_input_blocks_0_0_in_layers_2",
        "lora_unet_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder.unet.down_blocks.0.resnets.0.conv1",
        "lora_te_down_blocks_0_resnets_0_conv1",
        "up_blocks.0.downsamplers.0.conv",
    ],
)
def test_layers_of_no_model_that_is_known(name: str, tmp_path: Path) -> None:
    assert f"{name} is not a layer of Stable Diffusion: only adapters of" in refusal(tmp_path, lora(name))


METHODS = {
    "oft_blocks": "OFT",
    "oft_R.weight": "OFT",
    "oft_diag": "OFT",
    "a1.weight": "GLoRA",
    "glora_A.Xd": "GLoRA",
    "on_input": "IA3",
    "ia3_l": "IA3",
    "up_list.0": "DyLoRA",
    "lora_A.0": "DyLoRA",
    "lambda_layer": "T-LoRA",
    "lora_E": "AdaLoRA",
    "boft_R": "BOFT",
    "beft_bias": "BEFT",
    "c3a_kernel": "C3A",
    "deft_P": "DEFT",
    "delora_lambda": "DeLoRA",
    "fourierft_spectrum": "FourierFT",
    "frod_lambda_l": "FRoD",
    "gralora_A": "GraLoRA",
    "hira_A": "HiRA",
    "hra_u": "HRA",
    "lily_A.weight": "Lily",
    "ln_tuning_layers.weight": "LN tuning",
    "miss_block": "MiSS",
    "bone_block": "Bone",
    "shira_weight": "SHiRA",
    "osf_svd_params.S_low": "OSF",
    "peanut_A.weight": "PEANuT",
    "poly_lora_A": "Poly",
    "psoft_R.weight": "PSOFT",
    "pvera_lambda_b": "PVeRA",
    "vera_lambda_b": "VeRA",
    "vera_lambda_d.default": "VeRA",
    "randlora_lambda": "RandLoRA",
    "road_theta": "RoAd",
    "supertuning_values": "SuperTuning",
    "tinylora_A": "TinyLoRA",
    "trainable_tokens_delta": "trainable tokens",
    "vblora_logits_A": "VB-LoRA",
    "waveft_spectrum": "WaveFT",
    "prompt_embeddings": "prompt or prefix tuning",
}
"""Name of a tensor that LyCORIS or PEFT 0.21 writes -> its method."""


@pytest.mark.parametrize("tensor", METHODS)
def test_methods_that_cannot_be_read(tensor: str, tmp_path: Path) -> None:
    """Also where a LoRA stands beside them: what they do would be missing."""
    for beside in ([], lora(f"base_model.model.{PATH.replace('to_q', 'to_k')}")):
        message = refusal(tmp_path, [f"base_model.model.{PATH}.{tensor}", *beside])
        assert f"its method is {METHODS[tensor]}, which is not supported: only LoRA, DoRA, LoHa, LoKr" in message


def test_methods_that_sizes_and_prefixes_tell(tmp_path: Path) -> None:
    assert "its method is BOFT" in refusal(tmp_path, [f"{KOHYA}.oft_blocks"], ndim=4)
    assert "its method is IA3" in refusal(tmp_path, [f"{KOHYA}.weight", f"{KOHYA}.on_input"])
    assert "its method is OFT" in refusal(tmp_path, [f"oft_unet_{PATH.replace('.', '_')}.oft_blocks"], ndim=3)
    assert "ControlNet-LLLite" in refusal(tmp_path, ["lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["emb_params"], "a textual inversion embedding, not an adapter"),
        (["clip_l", "clip_g"], "a textual inversion embedding, not an adapter"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a complete model, not an adapter: use it as --base"),
        (["down_blocks.0.attentions.0.proj_in.weight", "conv_in.weight"], "a complete model, not an adapter"),
        (["something"], "contains no adapter: use the adapter.safetensors of a run"),
        ([f"{KOHYA}.alpha"], "lacks down: the file is incomplete"),
    ],
)
def test_files_that_hold_something_else(names: list[str], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"PK\x03\x04" + bytes(99), "is a pickle"),
        (b"\x80\x04" + bytes(99), "is a pickle"),
        (b"GGUF\x03" + bytes(99), "is a GGUF file"),
        (b"", "is truncated or not a safetensors file"),
    ],
)
def test_files_that_are_mistaken_for_adapters(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterFileError, match=message):
        read_adapter(path)


def test_folders(tmp_path: Path) -> None:
    """Those that PEFT and diffusers write are adapters, also one in which PEFT saved a named one."""
    tensors: dict[str, Tensor] = {name: torch.ones(2, 2) for name in lora(f"base_model.model.{PATH}")}

    def saved(folder: Path, name: str) -> Path:
        folder.mkdir(exist_ok=True, parents=True)
        save_file(tensors, folder / name)
        return folder

    assert read_adapter(saved(tmp_path / "script", "pytorch_lora_weights.safetensors")).file.layers.keys() == {PATH}
    peft = saved(tmp_path / "peft" / "dog", "adapter_model.safetensors")
    config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 6}'
    (peft / "adapter_config.json").write_text(config)
    for path in (peft, peft.parent, peft / "adapter_model.safetensors"):
        assert read_adapter(path).file.config.scale == 3
    other = saved(tmp_path / "peft" / "cat", "adapter_model.safetensors")
    (other / "adapter_config.json").write_text(config)
    with pytest.raises(AdapterFileError, match=r"contains 2 adapters \(.*cat, .*dog\): use one of them"):
        read_adapter(peft.parent)
    for name, message in (("adapter_model.bin", "is a pickle"), ("other.txt", "no adapter_model.safetensors: copy")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(config)
        (folder / name).touch()
        with pytest.raises(AdapterFileError, match=message):
            read_adapter(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterFileError, match="is a folder without an adapter"):
        read_adapter(tmp_path / "empty")


@pytest.mark.parametrize("method", ["VERA", "IA3", "ADALORA", "PROMPT_TUNING"])
def test_folders_of_other_methods(method: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "{method}"}}')
    save_file({"base_model.model.x": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterFileError, match=f"has the method {method}: only LORA, LOHA, LOKR can be read"):
        read_adapter(tmp_path)
