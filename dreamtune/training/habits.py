"""Settings of other trainers that do not exist here, and what to use instead."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Habit:
    """Names of sd-scripts or diffusers without a counterpart."""

    names: tuple[str, ...]
    answer: str
    """What to use here, or why it is not needed; shown after the name in a message and beside it in a table."""


HABITS = (
    Habit(
        ("repeats", "num_repeats", "dataset_repeats"),
        "there are no repeats: all images are seen equally often, and `steps` sets the length of a run",
    ),
    Habit(
        ("epochs", "epoch", "max_train_epochs", "num_train_epochs", "save_every_n_epochs", "sample_every_n_epochs"),
        "all intervals are in optimizer steps (`steps`, `checkpoint_every`, `sample_every`); `--dry-run` shows how "
        "many make an epoch",
    ),
    Habit(
        ("clip_skip",),
        "the base decides: for clip_skip 2, in training and generation alike, use a copy of the base with one less in "
        "`num_hidden_layers` of text_encoder/config.json (11 instead of 12 for SD 1.x)",
    ),
    Habit(
        ("keep_tokens", "keep_tokens_separator", "shuffle_caption", "caption_separator"),
        "captions are never shuffled: every word stays in its place",
    ),
    Habit(("enable_wildcard",), "each line of a caption file is always a caption of its own"),
    Habit(
        ("caption_dropout_every_n_epochs", "caption_tag_dropout_rate"),
        "`caption_dropout` drops the whole caption; single tags are never dropped",
    ),
    Habit(
        ("conditioning_data_dir", "alpha_mask"),
        "`masks` is on by default: put masks into a subfolder named masks; transparency counts as a mask too",
    ),
    Habit(("caption_extension",), "captions are .txt or .caption files with the image's name, or in metadata.jsonl"),
    Habit(("class_tokens",), "use `token` and `class_word` (--token, --class)"),
    Habit(("is_reg", "num_reg_images"), "`prior` generates the class images itself; `prior_images` is their number"),
    Habit(("network_train_unet_only", "train_unet_only"), "`text_encoder` is false by default"),
    Habit(("network_train_text_encoder_only",), "use `targets: none` with `text_encoder: true`"),
    Habit(
        ("stop_text_encoder_training", "text_encoder_stop_training"),
        "text encoders are trained to the end, at half of lr (`text_encoder_lr`), or not at all (`text_encoder`)",
    ),
    Habit(("conv_dim", "conv_alpha"), "`targets: all` adapts convolutions too; `ranks` gives them their own rank"),
    Habit(("dim_from_weights",), "`start_from` uses the rank of its file unless `rank` is set"),
    Habit(("use_dora", "dora_wd"), "use `method: dora`, or `weight_decompose` in `method_options` of loha and lokr"),
    Habit(
        ("lora_dropout", "rank_dropout", "module_dropout"), "use `dropout` in `method_options`, which acts on the input"
    ),
    Habit(("scale_weight_norms", "weight_norm_scaling"), "norms are not limited: lower `lr`, or raise `weight_decay`"),
    Habit(("scale_lr",), "`lr` is used as it is, whatever the batch size"),
    Habit(
        ("cache_latents", "cache_latents_to_disk", "cache_text_encoder_outputs", "vae_batch_size"),
        "latents and prompts are always encoded once and cached (`dreamtune cache`)",
    ),
    Habit(
        ("xformers", "sdpa", "mem_eff_attn", "enable_xformers_memory_efficient_attention"),
        "torch's memory-efficient attention is always used",
    ),
    Habit(("v2", "v_parameterization", "sdxl"), "architecture and prediction type are read from the base"),
    Habit(("vae",), "the base's own VAE is used: for another VAE, use a base that contains it"),
    Habit(
        ("full_fp16", "full_bf16", "fp8_base", "lowram", "no_half_vae"),
        "`precision` sets that of the frozen weights; the adapter and the VAE are always fp32",
    ),
    Habit(
        ("save_precision", "save_model_as"),
        "adapters are saved in fp32; `dreamtune export` writes other formats and precisions",
    ),
    Habit(("output_dir", "output_name", "logging_dir"), "use --out, or --name for a run in the folder runs"),
    Habit(
        ("resume_from_checkpoint", "save_state", "save_state_on_train_end"),
        "every run can be resumed: --resume RUN_DIR",
    ),
    Habit(
        ("max_token_length", "max_sequence_length", "weighted_captions"),
        "captions are cut at the text encoder's own limit; a remark names those that are longer",
    ),
    Habit(
        ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"),
        "bucket shapes follow from `resolution` and `buckets`",
    ),
    Habit(
        ("color_aug", "random_crop", "center_crop", "face_crop_aug_range", "random_flip"),
        "images are center-cropped; the only augmentation is `flip`",
    ),
    Habit(
        ("multires_noise_iterations", "multires_noise_discount", "adaptive_noise_scale", "ip_noise_gamma"),
        "the only noise modification is `noise_offset`",
    ),
    Habit(("max_data_loader_n_workers", "dataloader_num_workers", "persistent_data_loader_workers"), "not needed"),
    Habit(("allow_tf32",), "`precision` fp32 computes in true fp32; bf16 is the fast choice"),
    Habit(("optimizer_args", "adam_beta1", "adam_beta2", "adam_epsilon"), "only `weight_decay` can be set"),
)

NAMES = {name: habit.answer for habit in HABITS for name in habit.names}

VALUES: dict[tuple[str, Hashable], str] = {
    ("text_encoder_lr", 0): "leave it unset: text encoders are trained only if text_encoder is true",
    ("prior_weight", 0): "set prior to false (--no-prior), which also skips the class images",
    ("pivotal_lr", 0): "leave it unset and pivotal at 0: the token then keeps the base's embedding",
    ("lr", 0): "set targets to none to leave the UNet unchanged",
    ("alpha", 0): "leave it unset: it then equals the rank, which is scale 1",
    ("snr_gamma", 0): "leave it unset to weight all noise levels equally",
    ("huber_c", 0): "leave it unset for the squared error",
    ("max_grad_norm", 0): "to turn clipping off, set a norm that no gradient reaches, e.g. 1e9",
    ("lora_plus_ratio", 0): "set it to 1 for plain LoRA",
    ("keep_checkpoints", 0): "the newest is always kept; checkpoint_every = 0 saves only the last",
    ("lr_schedule", "constant_with_warmup"): "use constant, with warmup_steps",
    ("lr_schedule", "cosine_with_restarts"): "use cosine-restarts, which decays to zero lr_cycles times",
    ("lr_schedule", "polynomial"): "the closest is linear",
    ("precision", "no"): "use fp32",
    ("precision", False): "use fp32",  # what YAML makes of a bare `no`
    ("precision", "full"): "use fp32",
}


def answer_to(key: str, value: Any) -> str | None:
    """What to use instead of the bad `value` of `key`; None if that is not known."""
    if isinstance(value, Hashable) and (key, value) in VALUES:
        return VALUES[key, value]
    if key == "warmup_steps" and isinstance(value, float) and 0 < value < 1:
        return "it is a number of steps, not a fraction of them"
    if key == "text_encoder_lr" and isinstance(value, list | tuple):
        return "all text encoders share one rate: set a single number"
    if key in ("optimizer", "method") and isinstance(value, str) and value != value.lower():
        return f"write it in lower case ({value.lower()})"
    return None
