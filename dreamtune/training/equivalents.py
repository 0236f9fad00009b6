"""Names of our settings in other trainers, for recipes written for these and for the table in the documentation.

Names are options of kohya's sd-scripts (train_network.py) and of diffusers' train_dreambooth_lora.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Equivalent:
    """One of our settings and its counterparts; empty where there is none."""

    ours: str
    kohya: tuple[str, ...] = ()
    diffusers: tuple[str, ...] = ()
    remark: str = ""
    """How they differ."""


EQUIVALENTS = (
    Equivalent(
        "images",
        ("train_data_dir",),
        ("instance_data_dir",),
        "the folder of the images itself; there are no repeats, `steps` sets the length of a run",
    ),
    Equivalent("base", ("pretrained_model_name_or_path",), ("pretrained_model_name_or_path",)),
    Equivalent(
        "instance_prompt", (), ("instance_prompt",), "kohya takes it from the folder name; captions take precedence"
    ),
    Equivalent(
        "caption_dropout",
        ("caption_dropout_rate",),
        ("proportion_empty_prompts",),
        "for the subject's images only; diffusers has it in train_text_to_image.py",
    ),
    Equivalent("class_prompt", (), ("class_prompt",), "kohya takes it from the folder name"),
    Equivalent(
        "prior",
        ("reg_data_dir",),
        ("with_prior_preservation", "class_data_dir"),
        "on by default; the base generates the class images",
    ),
    Equivalent("prior_images", (), ("num_class_images",)),
    Equivalent("prior_weight", ("prior_loss_weight",), ("prior_loss_weight",)),
    Equivalent("method", ("network_module",)),
    Equivalent("rank", ("network_dim",), ("rank",), "default 8; diffusers 4"),
    Equivalent("alpha", ("network_alpha",), (), "default: the rank, as in diffusers; kohya 1"),
    Equivalent(
        "method_options",
        ("network_args", "network_dropout"),
        (),
        "kohya's dropout acts on the rank dimension, ours on the input",
    ),
    Equivalent("start_from", ("network_weights",), (), "from any method; in kohya with dim_from_weights"),
    Equivalent("steps", ("max_train_steps",), ("max_train_steps",), "optimizer steps in all three"),
    Equivalent("lr", ("learning_rate", "unet_lr"), ("learning_rate",), "comparable only together with alpha/rank"),
    Equivalent(
        "text_encoder", (), ("train_text_encoder",), "off by default; in kohya network_train_unet_only turns it off"
    ),
    Equivalent("text_encoder_lr", ("text_encoder_lr",), (), "default: half of lr"),
    Equivalent("lr_schedule", ("lr_scheduler",), ("lr_scheduler",)),
    Equivalent("lr_cycles", ("lr_scheduler_num_cycles",), ("lr_num_cycles",)),
    Equivalent("warmup_steps", ("lr_warmup_steps",), ("lr_warmup_steps",), "default 0; diffusers 500"),
    Equivalent("batch_size", ("train_batch_size",), ("train_batch_size",), "default 1; diffusers 4"),
    Equivalent("gradient_accumulation_steps", ("gradient_accumulation_steps",), ("gradient_accumulation_steps",)),
    Equivalent("optimizer", ("optimizer_type",), ("use_8bit_adam",)),
    Equivalent("weight_decay", (), ("adam_weight_decay",), "in kohya part of optimizer_args"),
    Equivalent("max_grad_norm", ("max_grad_norm",), ("max_grad_norm",)),
    Equivalent("snr_gamma", ("min_snr_gamma",)),
    Equivalent(
        "debiased",
        ("debiased_estimation_loss",),
        (),
        "same objective for v-prediction as for epsilon; kohya uses 1/(snr + 1) for v",
    ),
    Equivalent("timestep_min", ("min_timestep",)),
    Equivalent("timestep_max", ("max_timestep",), (), "exclusive, in both"),
    Equivalent("noise_offset", ("noise_offset",)),
    Equivalent("zero_terminal_snr", ("zero_terminal_snr",), (), "unneeded for bases made that way"),
    Equivalent("huber_c", ("huber_c", "loss_type"), (), "set: kohya's loss_type huber; unset: its l2"),
    Equivalent("huber_schedule", ("huber_schedule",)),
    Equivalent("gradient_checkpointing", ("gradient_checkpointing",), ("gradient_checkpointing",)),
    Equivalent("buckets", ("enable_bucket",), (), "on by default"),
    Equivalent("masks", ("masked_loss",), (), "on by default, for images that have one"),
    Equivalent("trackers", ("log_with",), ("report_to",), "a list; none by default"),
    Equivalent("precision", ("mixed_precision",), ("mixed_precision",), "fp32 is `no` there"),
    Equivalent("resolution", ("resolution",), ("resolution",), "a single number"),
    Equivalent("flip", ("flip_aug",)),
    Equivalent("seed", ("seed",), ("seed",)),
    Equivalent(
        "checkpoint_every",
        ("save_every_n_steps",),
        ("checkpointing_steps",),
        "always complete, so that a run can resume",
    ),
    Equivalent("keep_checkpoints", (), ("checkpoints_total_limit",), "default 2; diffusers keeps all"),
    Equivalent("sample_every", ("sample_every_n_steps",), ("validation_epochs",), "in steps"),
    Equivalent("sample_prompts", ("sample_prompts",), ("validation_prompt",), "a list, not a file"),
)


OTHER_NAMES = {name: row.ours for row in EQUIVALENTS for name in (*row.kohya, *row.diffusers) if name != row.ours}
"""Their name -> ours, where these differ."""
