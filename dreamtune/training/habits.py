"""What users of other trainers write by habit and is no setting here, and what does it instead."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Habit:
    """Names of sd-scripts or diffusers without a counterpart."""

    names: tuple[str, ...]
    answer: str
    """What does it here, or why it is not needed; stands after the name in a message and beside it in a table."""


HABITS = (
    Habit(
        ("repeats", "num_repeats", "dataset_repeats"),
        "there are no repeats: all pictures are seen equally often, and a run is as long as `steps` says",
    ),
    Habit(
        ("epochs", "epoch", "max_train_epochs", "num_train_epochs", "save_every_n_epochs", "sample_every_n_epochs"),
        "everything counts in optimizer steps (`steps`, `checkpoint_every`, `sample_every`); `--dry-run` says how many "
        "make an epoch",
    ),
    Habit(
        ("clip_skip",),
        "the base decides: a copy of it with `num_hidden_layers` one less in text_encoder/config.json (11 of SD 1.x's "
        "12) skips a layer as clip_skip 2 does, in training and in pictures alike",
    ),
    Habit(
        ("keep_tokens", "keep_tokens_separator", "shuffle_caption", "caption_separator"),
        "captions are never shuffled: every word stays where you wrote it",
    ),
    Habit(("enable_wildcard",), "every line of a caption's file is one of several captions, always"),
    Habit(
        ("caption_dropout_every_n_epochs", "caption_tag_dropout_rate"),
        "`caption_dropout` is how often the whole caption is left out; single tags never are",
    ),
    Habit(
        ("conditioning_data_dir", "alpha_mask"),
        "`masks` is on: put masks into a folder masks inside that of the pictures; transparency is a mask too",
    ),
    Habit(("caption_extension",), "a picture's caption is the .txt or .caption of its name, or in metadata.jsonl"),
    Habit(("class_tokens",), "`token` and `class_word` (--token, --class)"),
    Habit(("is_reg", "num_reg_images"), "`prior` draws the class pictures itself; `prior_images` is their number"),
    Habit(("network_train_unet_only", "train_unet_only"), "`text_encoder` is false unless you set it"),
    Habit(("network_train_text_encoder_only",), "`targets: none` with `text_encoder: true`"),
    Habit(
        ("stop_text_encoder_training", "text_encoder_stop_training"),
        "text encoders are trained to the end, at half of lr (`text_encoder_lr`), or not at all (`text_encoder`)",
    ),
    Habit(("conv_dim", "conv_alpha"), "`targets: all` adapts convolutions too; `ranks` gives them a rank of their own"),
    Habit(("dim_from_weights",), "`start_from` takes the rank of its file unless `rank` is set"),
    Habit(("use_dora", "dora_wd"), "`method: dora`, or `weight_decompose` in `method_options` of loha and lokr"),
    Habit(("lora_dropout", "rank_dropout", "module_dropout"), "`dropout` in `method_options`: of the input"),
    Habit(("scale_weight_norms", "weight_norm_scaling"), "no norm is bounded: lower `lr`, or raise `weight_decay`"),
    Habit(("scale_lr",), "`lr` is what you write, whatever the batch"),
    Habit(
        ("cache_latents", "cache_latents_to_disk", "cache_text_encoder_outputs", "vae_batch_size"),
        "latents and prompts are encoded once and kept in the cache always (`dreamtune cache`)",
    ),
    Habit(
        ("xformers", "sdpa", "mem_eff_attn", "enable_xformers_memory_efficient_attention"),
        "torch's own memory-efficient attention is always used",
    ),
    Habit(("v2", "v_parameterization", "sdxl"), "the base tells itself what it is and what it predicts"),
    Habit(("vae",), "the base's own VAE is used: give a base that has the other one"),
    Habit(
        ("full_fp16", "full_bf16", "fp8_base", "lowram", "no_half_vae"),
        "`precision` is that of the frozen weights; the adapter and the VAE are always fp32",
    ),
    Habit(("save_precision", "save_model_as"), "adapters are written in fp32; `dreamtune export` writes other forms"),
    Habit(("output_dir", "output_name", "logging_dir"), "--out, or --name for a run in the folder runs"),
    Habit(("resume_from_checkpoint", "save_state", "save_state_on_train_end"), "every run can go on: --resume RUN"),
    Habit(
        ("max_token_length", "max_sequence_length", "weighted_captions"),
        "a caption is read up to the text encoder's own length; a remark says where one is longer",
    ),
    Habit(
        ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"),
        "shapes follow from `resolution` and `buckets`",
    ),
    Habit(
        ("color_aug", "random_crop", "center_crop", "face_crop_aug_range", "random_flip"),
        "pictures are cropped to the middle; of augmentations there is `flip`",
    ),
    Habit(
        ("multires_noise_iterations", "multires_noise_discount", "adaptive_noise_scale", "ip_noise_gamma"),
        "of changed noises there is `noise_offset`",
    ),
    Habit(("max_data_loader_n_workers", "dataloader_num_workers", "persistent_data_loader_workers"), "not needed"),
    Habit(("allow_tf32",), "precision fp32 computes in fp32; bf16 is the fast one"),
    Habit(("optimizer_args", "adam_beta1", "adam_beta2", "adam_epsilon"), "of them `weight_decay` is a setting"),
)

NAMES = {name: habit.answer for habit in HABITS for name in habit.names}

VALUES: dict[tuple[str, Hashable], str] = {
    ("text_encoder_lr", 0): "leave it away: the text encoders are trained only if text_encoder is true",
    ("prior_weight", 0): "set prior to false (--no-prior), which draws no class pictures either",
    ("pivotal_lr", 0): "leave it away, and pivotal at 0: the token is then what it is to the base",
    ("lr", 0): "set targets to none to leave the UNet as it is",
    ("alpha", 0): "leave it away: it is then the rank, which is scale 1",
    ("snr_gamma", 0): "leave it away to weight all noise levels alike",
    ("huber_c", 0): "leave it away for squared errors",
    ("max_grad_norm", 0): "give a norm that no gradient has, for example 1e9, to clip none",
    ("lora_plus_ratio", 0): "1 is LoRA without it",
    ("keep_checkpoints", 0): "the newest always stays; checkpoint_every = 0 writes only the last one",
    ("lr_schedule", "constant_with_warmup"): "it is constant here, with warmup_steps",
    ("lr_schedule", "cosine_with_restarts"): "it is cosine-restarts here, which falls to zero lr_cycles times",
    ("lr_schedule", "polynomial"): "linear is the nearest",
    ("precision", "no"): "it is fp32 here",
    ("precision", False): "it is fp32 here",  # YAML reads a bare `no` so
    ("precision", "full"): "it is fp32 here",
}


def answer_to(key: str, value: Any) -> str | None:
    """What does what somebody wants who sets `key` to the bad `value`; None if that is not known."""
    if isinstance(value, Hashable) and (key, value) in VALUES:
        return VALUES[key, value]
    if key == "warmup_steps" and isinstance(value, float) and 0 < value < 1:
        return "it is a number of steps, not a share of them"
    if key == "text_encoder_lr" and isinstance(value, list | tuple):
        return "there is one rate for all text encoders"
    if key in ("optimizer", "method") and isinstance(value, str) and value != value.lower():
        return f"write it in small letters ({value.lower()})"
    return None
