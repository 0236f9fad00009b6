"""The published configurations of SD 1.5, SD 2.1 and SDXL 1.0, which single-file checkpoints do not hold."""

from __future__ import annotations

from typing import Any

Configs = dict[str, dict[str, Any]]
_SD_BLOCKS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_UNETS: Configs = {
    "sd1": {**_SD_BLOCKS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **_SD_BLOCKS,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def published_configs(family: str, velocity: bool, zero_snr: bool) -> Configs:
    """Configuration files of a diffusers folder, by name, for "sd1", "sd2" or "sdxl".

    velocity: the UNet predicts v, not the noise; zero_snr: the betas are rescaled to zero terminal SNR.
    """
    xl = family == "sdxl"
    side = 128 if xl else 96 if family == "sd2" and velocity else 64
    encoders = {"text_encoder": _clip_l(), "text_encoder_2": _clip_g()} if xl else {"text_encoder": _text(family)}
    index = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler" if xl else "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **{name: ["transformers", config["architectures"][0]] for name, config in encoders.items()},
        **{name.replace("text_encoder", "tokenizer"): ["transformers", "CLIPTokenizer"] for name in encoders},
    }
    unet = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        **_UNETS[family],
    }
    vae = _VAE | {"sample_size": side * 8, "scaling_factor": 0.13025 if xl else 0.18215}
    return {
        "model_index.json": index | ({"force_zeros_for_empty_prompt": True} if xl else {}),
        "unet/config.json": unet,
        "vae/config.json": vae | ({"force_upcast": True} if xl else {}),
        **{f"{name}/config.json": config for name, config in encoders.items()},
        "scheduler/scheduler_config.json": _scheduler(xl, velocity, zero_snr),
    }


def _scheduler(xl: bool, velocity: bool, zero_snr: bool) -> dict[str, Any]:
    if xl:
        own = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    else:
        own = {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False}
    if zero_snr:  # then sampling must begin at the last timestep (Lin et al. 2024, section 3.3)
        own |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return _SCHEDULER | own | {"prediction_type": "v_prediction" if velocity else "epsilon"}


def _text(family: str) -> dict[str, Any]:
    return _clip_l() if family == "sd1" else _clip(1024, 23, 16, "gelu", 512, "CLIPTextModel")


def _clip_l() -> dict[str, Any]:
    return _clip(768, 12, 12, "quick_gelu", 768, "CLIPTextModel")


def _clip_g() -> dict[str, Any]:
    return _clip(1280, 32, 20, "gelu", 1280, "CLIPTextModelWithProjection")


def _clip(width: int, layers: int, heads: int, activation: str, projection: int, architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "hidden_act": activation,
        "projection_dim": projection,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
