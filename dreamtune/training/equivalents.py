"""What other trainers call our settings: for their users' recipes, and for the table in the documentation.

Names are those of the options of kohya's sd-scripts (train_network.py) and of diffusers' train_dreambooth_lora.py.
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
        "the folder of the pictures itself; there are no repeats, a run is as long as `steps` says",
    ),
    Equivalent("base", ("pretrained_model_name_or_path",), ("pretrained_model_name_or_path",)),
    Equivalent("instance_prompt", (), ("instance_prompt",), "kohya takes it from the folder's name; captions win"),
    Equivalent(
        "caption_dropout",
        ("caption_dropout_rate",),
        ("proportion_empty_prompts",),
        "of the subject's pictures; theirs is in train_text_to_image.py",
    ),
    Equivalent("class_prompt", (), ("class_prompt",), "kohya takes it from the folder's name"),
    Equivalent(
        "prior", ("reg_data_dir",), ("with_prior_preservation", "class_data_dir"), "on by default; the base draws"
    ),
    Equivalent("prior_images", (), ("num_class_images",)),
    Equivalent("prior_weight", ("prior_loss_weight",), ("prior_loss_weight",)),
    Equivalent("method", ("network_module",)),
    Equivalent("rank", ("network_dim",), ("rank",), "8 by default; diffusers 4"),
    Equivalent("alpha", ("network_alpha",), (), "equal to the rank by default, as in diffusers; kohya 1"),
    Equivalent("method_options", ("network_args", "network_dropout"), (), "kohya drops of the rank, we of the input"),
    Equivalent("start_from", ("network_weights",), (), "of any method, see above; kohya with dim_from_weights"),
    Equivalent("steps", ("max_train_steps",), ("max_train_steps",), "optimizer steps in all three"),
    Equivalent("lr", ("learning_rate", "unet_lr"), ("learning_rate",), "only together with alpha/rank, see above"),
    Equivalent(
        "text_encoder", (), ("train_text_encoder",), "off by default; kohya's network_train_unet_only turns it off"
    ),
    Equivalent("text_encoder_lr", ("text_encoder_lr",), (), "half of lr by default"),
    Equivalent("lr_schedule", ("lr_scheduler",), ("lr_scheduler",)),
    Equivalent("lr_cycles", ("lr_scheduler_num_cycles",), ("lr_num_cycles",)),
    Equivalent("warmup_steps", ("lr_warmup_steps",), ("lr_warmup_steps",), "diffusers 500 by default"),
    Equivalent("batch_size", ("train_batch_size",), ("train_batch_size",), "diffusers 4 by default"),
    Equivalent("accumulation", ("gradient_accumulation_steps",), ("gradient_accumulation_steps",)),
    Equivalent("optimizer", ("optimizer_type",), ("use_8bit_adam",)),
    Equivalent("weight_decay", (), ("adam_weight_decay",), "kohya: among optimizer_args"),
    Equivalent("max_grad_norm", ("max_grad_norm",), ("max_grad_norm",)),
    Equivalent("snr_gamma", ("min_snr_gamma",)),
    Equivalent("debiased", ("debiased_estimation_loss",), (), "of v the same as of noise; kohya's is 1/(snr + 1)"),
    Equivalent("timestep_min", ("min_timestep",)),
    Equivalent("timestep_max", ("max_timestep",), (), "the first that is not trained, in both"),
    Equivalent("noise_offset", ("noise_offset",)),
    Equivalent("zero_terminal_snr", ("zero_terminal_snr",), (), "a base that was made so says it itself"),
    Equivalent("huber_c", ("huber_c", "loss_type"), (), "setting it is kohya's loss_type huber, none its l2"),
    Equivalent("huber_schedule", ("huber_schedule",)),
    Equivalent("gradient_checkpointing", ("gradient_checkpointing",), ("gradient_checkpointing",)),
    Equivalent("buckets", ("enable_bucket",), (), "on by default"),
    Equivalent("masks", ("masked_loss",), (), "on by default, where a picture has one"),
    Equivalent("trackers", ("log_with",), ("report_to",), "a list; none by default"),
    Equivalent("precision", ("mixed_precision",), ("mixed_precision",), "fp32 is their no"),
    Equivalent("resolution", ("resolution",), ("resolution",), "one number"),
    Equivalent("flip", ("flip_aug",)),
    Equivalent("seed", ("seed",), ("seed",)),
    Equivalent("checkpoint_every", ("save_every_n_steps",), ("checkpointing_steps",), "always whole: a run can resume"),
    Equivalent("keep_checkpoints", (), ("checkpoints_total_limit",), "2 by default; diffusers all"),
    Equivalent("sample_every", ("sample_every_n_steps",), ("validation_epochs",), "in steps"),
    Equivalent("sample_prompts", ("sample_prompts",), ("validation_prompt",), "a list, not a file"),
)


OTHER_NAMES = {name: row.ours for row in EQUIVALENTS for name in (*row.kohya, *row.diffusers) if name != row.ours}
"""Their name -> ours, where these differ."""
