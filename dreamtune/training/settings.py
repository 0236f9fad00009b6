"""Everything that decides a training run, with the meaning of each setting below it."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dreamtune.config import Config
from dreamtune.models.families import USUAL
from dreamtune.training.equivalents import OTHER_NAMES
from dreamtune.training.habits import NAMES, answer_to
from dreamtune.training.schedules import Schedule
from dreamtune.words import holds, one_form

_USUAL = USUAL["sd1"]
HuberSchedule = Literal["constant", "exponential", "snr"]
"""How the width of a pseudo-Huber loss depends on the noise."""


class TrainSettings(Config):
    """Settings of one DreamBooth training, checked one by one and against each other.

    The defaults are those for Stable Diffusion 1.x.
    """

    other_names = OTHER_NAMES
    answers = NAMES

    images: Path
    """Folder with 3 to 30 pictures of the subject (a caption may stand beside a picture in a .txt of its name)."""
    class_word: str
    """What the subject is, in a word the base knows ("dog", "backpack"); on the command line --class."""
    token: str = "sks"
    """Rare word that will mean this subject."""
    base: str = "pocket"
    """Base model: "pocket", a diffusers folder, a single .safetensors checkpoint, or a hub id."""
    instance_prompt: str = _USUAL.subject
    """Prompt of pictures without a caption; {token} and {class} are filled in."""
    prompts: tuple[str, ...] = ()
    """Several in place of instance_prompt: a picture without a caption has one of them each time it is seen."""
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    """How often a picture of the subject is seen with the empty prompt in place of its own (0.05 is usual); 0 never."""
    class_prompt: str = _USUAL.thing
    """Prompt of the prior (class) pictures."""
    class_prompts: tuple[str, ...] = Field(default=(), max_length=100)
    """Several in place of class_prompt, which share the prior_images evenly: scenes of two things among them keep the
    subject from becoming the whole picture."""

    compose: float = Field(default=0.0, ge=0, lt=1)
    """How often the subject is seen in a composite, beside another thing at the left or right (0.3 is usual), cut out
    by its mask where it has one; for pictures of several subjects. 0 never."""
    compose_with: tuple[str, ...] = Field(default=(), max_length=16)
    """Other things beside it in composites, in words that the base knows (mug, chair); {class} is any other of its
    class, and all there is if none is named."""

    method: str = "lora"
    """How the weights are changed: a name in dreamtune.adapters.METHODS."""
    rank: int | None = Field(default=None, ge=1, le=10_000)
    """Rank of the change per layer; the method's own default if not set."""
    alpha: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """Scale: the change is multiplied by alpha/rank; equal to the rank if not set."""
    method_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further options of the method, by the names in its config class."""
    ranks: dict[str, int] = Field(default_factory=dict)
    """Other ranks for single layers: regular expression on layer names -> rank, of several the last counts; alpha/rank
    stays the same."""
    targets: str = "attn"
    """UNet layers: attn, cross-attn, kv, attn+ff, attn+proj, attn+ff+proj, all, none; or a regular expression on layer
    names. proj are the layers into and out of transformers, all those of resnets and samplers too."""
    text_encoder: bool = False
    """Adapt the attention of the text encoders too, by the same method."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    """Learning rate of the text encoders' adapters; half of lr if not set, with prodigy all of it."""
    pivotal: int = Field(default=0, ge=0, le=32)
    """Make the token a new word of the vocabulary, of this many vectors that are trained too and start as the class
    word's (pivotal tuning; 2 is usual; with targets none textual inversion). 0 leaves it what it is to the base."""
    pivotal_lr: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    """Learning rate of the token's vectors; 5e-4 if not set, with prodigy lr."""

    start_from: Path | None = None
    """Adapter file, of any known tool, whose change and embeddings the training begins at, instead of at none; unset,
    its method, rank and token are taken. lora, dora, lora-dash, loha and full can begin at any, by its best factors."""

    steps: int = Field(default=800, ge=1, le=10_000_000)
    """Optimizer steps."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """What moves the weights; adamw8bit needs the package bitsandbytes, prodigy (lr 1.0) the package prodigyopt."""
    lr: float = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    """Learning rate at its peak; prodigy finds it itself and wants a factor of 1.0 here."""
    lr_schedule: Schedule = "constant"
    """Course of the learning rate after the warm-up; linear and cosine fall to zero at the last step, cosine-restarts
    does so lr_cycles times."""
    lr_cycles: int = Field(default=3, ge=1, le=1000)
    """How often cosine-restarts falls to zero."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    batch_size: int = Field(default=1, ge=1, le=4096)
    """Subject pictures per forward pass; with `prior`, as many class pictures are added to the same pass."""
    accumulation: int = Field(default=1, ge=1, le=10_000)
    """Forward passes per optimizer step."""
    weight_decay: float = Field(default=0.01, ge=0, le=1000, allow_inf_nan=False)
    """Decoupled weight decay: each step takes lr times this share off every weight of the adapter."""
    lora_plus_ratio: float = Field(default=1.0, gt=0, le=10_000, allow_inf_nan=False)
    """Learning rate of LoRA's B as a multiple of A's (LoRA+; 16 is usual, with a smaller lr)."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """The adapter is the exponential moving average of the weights in training (0.99 is usual); 0: the last weights."""
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Gradients are scaled down to this norm when theirs is larger."""
    snr_gamma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Gamma of min-SNR weighting (5 is usual); none weights all noise levels alike."""
    debiased: bool = False
    """Weigh noise levels by debiased estimation, 1/sqrt(snr): the noisier, the more (instead of snr_gamma)."""
    timestep_min: int = Field(default=0, ge=0)
    """Lowest timestep that is trained; bases have 0 (hardly any noise) to 999."""
    timestep_max: int | None = Field(default=None, ge=1)
    """Timesteps below this one are trained; up to the last if not set."""
    zero_terminal_snr: bool = False
    """Train, and draw with the adapter, under noise that leaves nothing of the picture at its last step (only for bases
    that predict v); a base made that way says so itself."""
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    """Strength of a shift of each channel's noise (0.05 to 0.1 is usual), for dark or bright pictures; 0 is none."""
    huber_c: float | None = Field(default=None, gt=0, le=1)
    """Width of a pseudo-Huber loss in place of squared errors, robust to pictures that do not fit (0.1 is usual)."""
    huber_schedule: HuberSchedule = "snr"
    """How the width depends on the noise: constant, or from 1 at little noise to huber_c at much (exponential, snr)."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides initial values, order and noise: the same seed gives the same adapter on CPU, bit for bit."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the frozen weights and the arithmetic; the adapter itself is always trained in fp32, and the VAE is fp32."""
    gradient_checkpointing: bool = False
    """Compute activations a second time instead of keeping them: much less memory, about a third more time."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes the accelerator if there is one."""

    resolution: int | None = Field(default=None, ge=8, le=8192)
    """Side in pixels to which pictures are cropped and resized; the base's own if not set."""
    flip: bool = False
    """Also train on mirrored pictures (off: mirrored faces, text and one-sided marks are another subject)."""
    buckets: bool = True
    """Keep long pictures long: each is cropped to the shape of about the same area that cuts off least, instead of
    to a square."""
    masks: bool | Literal["auto"] = True
    """Learn only what a mask shows, where a picture has one: x.mask.png beside x.jpg (white is the subject), or its
    own transparency. auto: also make one, as `dreamtune mask` does, of each picture that has none."""
    strict: bool = False
    """Stop at the first unusable picture instead of leaving it out with a remark."""

    prior: bool = True
    """Prior preservation: train on the class too, so that it keeps its meaning beside the subject."""
    prior_from: Literal["pictures", "prediction"] = "pictures"
    """What keeps the class's meaning: pictures that the base draws beforehand, or, without any, the base's own
    prediction for the class prompt on the subject's noisy pictures (no drawing; one more pass without gradients)."""
    prior_weight: float = Field(default=1.0, gt=0, le=10_000, allow_inf_nan=False)
    """Weight of the prior's loss (lambda in DreamBooth, equation 2)."""
    prior_images: int = Field(default=100, ge=1, le=100_000)
    """Number of class pictures; generated once and shared by all runs with the same base, class and size."""
    sampling_steps: int = Field(default=_USUAL.steps, ge=1, le=999)
    """Denoising steps for each class or sample picture."""
    guidance: float = Field(default=_USUAL.guidance, ge=0, le=1000, allow_inf_nan=False)
    """Classifier-free guidance for class and sample pictures."""

    checkpoint_every: int = Field(default=100, ge=0)
    """A checkpoint every this many steps, and one at the end; 0 keeps only the last."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
    sample_every: int = Field(default=0, ge=0)
    """A picture of each sample prompt every this many steps; 0 draws none."""
    sample_prompts: tuple[str, ...] = Field(default=(), max_length=1000)
    """Prompts of the sample pictures, {token} and {class} filled in; the instance prompt if none."""
    score_every: int = Field(default=0, ge=0)
    """Judge the adapter every this many steps by a few pictures from the same noise, and name the best step; 0 does
    not. pocket has a judge of its own, other bases need dino and clip."""
    keep: Literal["last", "best"] = "last"
    """Which step becomes the adapter: the last, or the best of those that score_every judges."""
    early_stop: int = Field(default=0, ge=0)
    """Stop when this many scores in a row have brought nothing better than the best before them; 0 trains all steps."""
    dino: str | None = None
    """Identity encoder for score_every (DINO, DINOv2 or DINOv3), a folder or a hub id."""
    clip: str | None = None
    """Image-text encoder for score_every (CLIP), a folder or a hub id."""
    track_tsd: int = Field(default=0, ge=0)
    """Write down every this many steps which directions of the UNet's weights are changed most, into tsd.jsonl; 0 does
    not. Needs all singular vectors of the base, which takes minutes once on a large one."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Who is shown the course of the training beside metrics.jsonl: tensorboard writes into the run folder, wandb sends
    to Weights & Biases (WANDB_MODE=offline keeps it here). Each needs its package."""

    @field_validator("class_word", "token")
    @classmethod
    def _one_line(cls, value: str, info: Any) -> str:
        value = one_form(value.strip())
        if not value:
            what = 'what the subject is, for example "dog"' if info.field_name == "class_word" else "a rare word"
            raise ValueError(f"{info.field_name} is empty: give {what}")
        if not value.isprintable() or "{" in value or "}" in value:
            raise ValueError(f"{info.field_name} = {value!r} must be plain words on one line")
        return value

    @field_validator("compose_with")
    @classmethod
    def _plain_things(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        things = tuple(dict.fromkeys(one_form(" ".join(it.split())) for it in value))
        for thing in things:
            plain = thing.replace("{class}", "")
            if not thing or not thing.isprintable() or "{" in plain or "}" in plain:
                raise ValueError(f"compose_with = {thing!r} must be a thing in plain words, for example mug")
        return things

    @field_validator("resolution")
    @classmethod
    def _whole_latents(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(f"resolution = {value} must be a multiple of 8; try {max(8, round(value / 8) * 8)}")
        return value

    @field_validator("instance_prompt", "prompts", "class_prompt", "class_prompts", "sample_prompts")
    @classmethod
    def _known_placeholders(cls, value: str | tuple[str, ...], info: Any) -> str | tuple[str, ...]:
        for template in (value,) if isinstance(value, str) else value:
            try:
                fields = {field[1:] for field in string.Formatter().parse(template) if field[1] is not None}
            except ValueError as error:
                raise ValueError(f"{info.field_name} = {template!r}: {error}") from None
            if fields - {("token", "", None), ("class", "", None)}:  # without format or conversion
                raise ValueError(f"{info.field_name} = {template!r}: only {{token}} and {{class}} can be filled in")
            if not template.strip():
                raise ValueError(f"{info.field_name} is empty: write a prompt")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, templates in {"instance_prompt": (self.instance_prompt,), "prompts": self.prompts}.items():
            for template in templates:
                if not holds(self.prompt(template), self.token):
                    raise ValueError(
                        f"{name} = {template!r} must hold {{token}} as a whole word: nothing else recalls it"
                    )
        for template in self.class_prompts or (self.class_prompt,):
            # A token that is part of the class itself is only remarked on: see data.words.
            if self.prior and holds(template.format(**{"token": self.token, "class": ""}), self.token):
                raise ValueError(
                    f"class prompt {template!r} names the token {self.token!r}: class pictures are of others"
                )
        if self.compose_with and not self.compose:
            raise ValueError("compose_with is for composites: set compose too, for example to 0.3")
        if self.compose and (named := next((it for it in self.other_things if holds(it, self.token)), None)):
            raise ValueError(
                f"compose puts {named!r} beside the subject, which names the token {self.token!r}: set compose_with to "
                "other things, for example mug"
            )
        if len(self.class_prompts) > 1 and self.prior_from == "prediction":
            raise ValueError("prior_from = 'prediction' asks for one class prompt: use class_prompt, or pictures")
        if self.prior and len(self.prior_prompts) > self.prior_images:
            raise ValueError(
                f"prior_images = {self.prior_images} is less than the {len(self.prior_prompts)} class_prompts need"
            )
        if self.pivotal and not re.fullmatch(r"\w+", self.token):
            raise ValueError(f"token = {self.token!r} must be one word of letters and digits with pivotal")
        if self.targets == "none" and not (self.pivotal or self.text_encoder):
            raise ValueError(
                "targets = 'none' leaves nothing to train: set pivotal, for example to 2, or other targets"
            )
        if self.text_encoder_lr is not None and not self.text_encoder:
            raise ValueError(f"text_encoder_lr = {self.text_encoder_lr:g} is for text_encoder = true: set that too")
        if self.pivotal_lr is not None and not self.pivotal:
            raise ValueError(f"pivotal_lr = {self.pivotal_lr:g} is for pivotal: set that too, for example to 2")
        if self.debiased and self.snr_gamma is not None:
            raise ValueError("debiased and snr_gamma both weigh noise levels: set one of them")
        if self.timestep_max is not None and self.timestep_min >= self.timestep_max:
            raise ValueError(f"timestep_min = {self.timestep_min} must be less than timestep_max = {self.timestep_max}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} must be less than steps = {self.steps}")
        if not self.score_every and (self.keep == "best" or self.early_stop):
            raise ValueError("keep = best and early_stop need scores: set score_every, for example to 50")
        if self.score_every > self.steps:
            raise ValueError(f"score_every = {self.score_every} is more than steps = {self.steps}: nothing is judged")
        return self

    @property
    def instance_prompts(self) -> tuple[str, ...]:
        """What pictures without a caption are called, filled in."""
        return tuple(map(self.prompt, self.prompts or (self.instance_prompt,)))

    @property
    def prior_prompts(self) -> tuple[str, ...]:
        """What class pictures are drawn for, each once, filled in."""
        return tuple(dict.fromkeys(map(self.prompt, self.class_prompts or (self.class_prompt,))))

    @property
    def prior_shares(self) -> dict[str, int]:
        """How many class pictures each of them has: about the same number."""
        each, rest = divmod(self.prior_images, len(self.prior_prompts))
        return {prompt: each + (place < rest) for place, prompt in enumerate(self.prior_prompts)}

    @property
    def other_things(self) -> tuple[str, ...]:
        """What stands beside the subject in composites."""
        return tuple(dict.fromkeys(map(self.prompt, self.compose_with or ("{class}",))))

    @classmethod
    def answer_to(cls, key: str, value: Any) -> str | None:
        """See Config."""
        return answer_to(key, value)

    def prompt(self, template: str) -> str:
        """Fill {token} and {class} into a prompt template."""
        return template.format(**{"token": self.token, "class": self.class_word})
