"""All settings of a training run, each with its meaning below it."""

from __future__ import annotations

import re
import string
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dreamtune.config import Config
from dreamtune.models.families import USUAL
from dreamtune.training.equivalents import OTHER_NAMES
from dreamtune.training.habits import NAMES, answer_to
from dreamtune.words import holds, one_form

_USUAL = USUAL["sd1"]
Schedule = Literal["constant", "linear", "cosine", "cosine-restarts"]
"""Course of the learning rate after the warm-up."""
HuberSchedule = Literal["constant", "exponential", "snr"]
"""How the width of a pseudo-Huber loss depends on the noise."""


class TrainSettings(Config):
    """Settings of one DreamBooth training, validated one by one and against each other.

    The defaults are for Stable Diffusion 1.x.
    """

    other_names = OTHER_NAMES
    answers = NAMES
    renamed = MappingProxyType({"accumulation": "gradient_accumulation_steps"})

    images: Path
    """Folder with 3 to 30 training images of the subject; a caption goes into a .txt file with its image's name."""
    class_word: str
    """Class of the subject, in a word the base knows ("dog", "backpack"); --class on the command line."""
    token: str = "sks"
    """Rare word that will stand for the subject."""
    base: str = "pocket"
    """Base model: "pocket", a diffusers folder, a single .safetensors checkpoint, or a hub id."""
    instance_prompt: str = _USUAL.subject
    """Prompt for images without a caption; {token} and {class} are filled in."""
    prompts: tuple[str, ...] = ()
    """Several prompts in place of instance_prompt: each time an image without a caption is seen, one is picked at
    random."""
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a training image is seen with the empty prompt instead of its own (0.05 is common); 0 turns it
    off."""
    class_prompt: str = _USUAL.thing
    """Prompt for the class images of prior preservation."""
    class_prompts: tuple[str, ...] = Field(default=(), max_length=100)
    """Several prompts in place of class_prompt, which share the prior_images evenly. Scenes with two things among them
    keep the subject from filling the whole image."""

    compose: float = Field(default=0.0, ge=0, lt=1)
    """Probability that the subject is seen in a composite, left or right of another thing (0.3 is common), cut out by
    its mask if it has one; for images of several subjects. 0 turns it off."""
    compose_with: tuple[str, ...] = Field(default=(), max_length=16)
    """Other things to place beside the subject in composites, in words the base knows (mug, chair); {class} is another
    member of its class, and the default if none is named."""

    method: str = "lora"
    """Adapter method: lora, dora, lora-dash, spectral-a, spectral-r, loha, lokr, orthogonal or full."""
    rank: int | None = Field(default=None, ge=1, le=10_000)
    """Rank of each layer's update; unset: the method's default."""
    alpha: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """Scale: the update is multiplied by alpha/rank; unset: equal to the rank."""
    method_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further options of the method, named as in its config class."""
    ranks: dict[str, int] = Field(default_factory=dict)
    """Ranks of single layers: regular expression on layer names -> rank; if several match, the last one wins.
    alpha/rank stays the same."""
    targets: str = "attn"
    """UNet layers to adapt: attn, cross-attn, kv, attn+ff, attn+proj, attn+ff+proj, all, none; or a regular expression
    on layer names. proj adds the layers into and out of the transformers; all also adds those of resnets, down- and
    upsamplers."""
    text_encoder: bool = False
    """Also adapt the attention layers of the text encoders, with the same method."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    """Learning rate of the text encoders' adapters; unset: half of lr, or lr with prodigy."""
    pivotal: int = Field(default=0, ge=0, le=32)
    """Pivotal tuning: make the token a new word with this many trained embedding vectors, initialized from the class
    word (2 is common; with targets none this is textual inversion). 0 leaves the base's embedding of the token as it
    is."""
    pivotal_lr: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    """Learning rate of the token's embedding vectors; unset: 5e-4, or lr with prodigy."""

    start_from: Path | None = None
    """Adapter file of any known tool whose update and embeddings are the starting point; its method, rank and token are
    taken if unset. lora, dora, lora-dash, loha and full can start from any adapter, by its best low-rank factors."""

    steps: int = Field(default=800, ge=1, le=10_000_000)
    """Optimizer steps."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """Optimizer; adamw8bit needs the package bitsandbytes, prodigy (lr 1.0) the package prodigyopt."""
    lr: float = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    """Peak learning rate; prodigy finds it itself, use 1.0 there."""
    lr_schedule: Schedule = "constant"
    """Learning rate schedule after the warm-up; linear and cosine decay to zero at the last step, cosine-restarts does
    so lr_cycles times."""
    lr_cycles: int = Field(default=3, ge=1, le=1000)
    """How many times cosine-restarts decays to zero."""
    warmup_steps: int = Field(default=0, ge=0)
    """Warm-up: steps over which the learning rate rises linearly from zero."""
    batch_size: int = Field(default=1, ge=1, le=4096)
    """Training images per forward pass; with `prior`, as many class images are added to the same pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=10_000)
    """Forward and backward passes per optimizer step."""
    weight_decay: float = Field(default=0.01, ge=0, le=1000, allow_inf_nan=False)
    """Decoupled weight decay: each step shrinks every weight of the adapter by lr times this."""
    lora_plus_ratio: float = Field(default=1.0, gt=0, le=10_000, allow_inf_nan=False)
    """LoRA+: learning rate of LoRA's B as a multiple of A's (16 is common, with a smaller lr)."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which becomes the adapter (0.99 is common); 0 keeps the
    last weights."""
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Gradient clipping: larger gradients are scaled down to this norm."""
    snr_gamma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Gamma of min-SNR weighting (5 is common); none weights all noise levels equally."""
    debiased: bool = False
    """Debiased estimation: weight noise levels by 1/sqrt(snr), the noisier the more; replaces snr_gamma."""
    timestep_min: int = Field(default=0, ge=0)
    """Lowest timestep to train on; a base has 0 (almost no noise) to 999."""
    timestep_max: int | None = Field(default=None, ge=1)
    """Train only on timesteps below this one; unset: up to the last."""
    zero_terminal_snr: bool = False
    """Train, and generate with the adapter, with zero terminal SNR: the last step is pure noise (v-prediction bases
    only). Unneeded for bases made that way."""
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    """Noise offset: strength of a random shift of each channel (0.05 to 0.1 is common), for dark or bright images; 0
    turns it off."""
    huber_c: float | None = Field(default=None, gt=0, le=1)
    """Width of a pseudo-Huber loss, robust to images that do not fit (0.1 is common); unset: squared error."""
    huber_schedule: HuberSchedule = "snr"
    """How the Huber width depends on the noise: constant, or from 1 at low noise to huber_c at high noise (exponential,
    snr)."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the initial weights, image order and noise; on CPU the same seed gives the same adapter, bit for bit."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the frozen weights and of the computation; the adapter and the VAE are always fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: much less memory, about a third more time."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on; auto takes the accelerator if there is one."""

    resolution: int | None = Field(default=None, ge=8, le=8192)
    """Side in pixels to which images are cropped and resized; unset: the base's own."""
    flip: bool = False
    """Also train on mirrored images (off by default: mirrored faces, text and one-sided marks are a different
    subject)."""
    buckets: bool = True
    """Aspect-ratio buckets: crop each image to the shape of about the same area that cuts off least, not to a
    square."""
    masks: bool | Literal["auto"] = True
    """Masked loss: learn only what an image's mask shows, if it has one: x.mask.png beside x.jpg (white is the
    subject), or its transparency. auto: also create masks for images without one, as `dreamtune mask` does."""
    strict: bool = False
    """Stop at the first unusable image instead of leaving it out with a remark."""

    prior: bool = True
    """Prior preservation: also train on the class, so that it keeps its meaning beside the subject."""
    prior_from: Literal["pictures", "prediction"] = "pictures"
    """Source of the prior: class images that the base generates beforehand (pictures), or the base's own prediction for
    the class prompt on the subject's noisy images (prediction: nothing to generate, one more pass without
    gradients)."""
    prior_weight: float = Field(default=1.0, gt=0, le=10_000, allow_inf_nan=False)
    """Weight of the prior preservation loss (lambda in DreamBooth, equation 2)."""
    prior_images: int = Field(default=100, ge=1, le=100_000)
    """Number of class images; generated once and shared by all runs with the same base, class and size."""
    sampling_steps: int = Field(default=_USUAL.steps, ge=1, le=999)
    """Denoising steps for class images and sample images."""
    guidance: float = Field(default=_USUAL.guidance, ge=0, le=1000, allow_inf_nan=False)
    """Classifier-free guidance scale for class images and sample images."""

    checkpoint_every: int = Field(default=100, ge=0)
    """Save a checkpoint every N steps, and one at the end; 0 saves only the last."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of checkpoints to keep on disk."""
    sample_every: int = Field(default=0, ge=0)
    """Generate an image for each sample prompt every N steps; 0 turns it off."""
    sample_prompts: tuple[str, ...] = Field(default=(), max_length=1000)
    """Prompts of the sample images, {token} and {class} filled in; unset: the instance prompt."""
    score_every: int = Field(default=0, ge=0)
    """Evaluate the adapter every N steps on a few images from the same noise, and report the best step; 0 turns it off.
    pocket has its own judge, other bases need dino and clip."""
    keep: Literal["last", "best"] = "last"
    """Step that becomes the adapter: the last, or the best that score_every found."""
    early_stop: int = Field(default=0, ge=0)
    """Early stopping: stop after this many evaluations in a row without a new best; 0 trains all steps."""
    dino: str | None = None
    """Identity encoder for score_every (DINO, DINOv2 or DINOv3): a folder or a hub id."""
    clip: str | None = None
    """Image-text encoder for score_every (CLIP): a folder or a hub id."""
    track_tsd: int = Field(default=0, ge=0)
    """Every N steps, record in tsd.jsonl which directions of the UNet's weights change most; 0 turns it off. Needs the
    full SVD of the base, which takes minutes, once, for a large base."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Experiment trackers besides metrics.jsonl: tensorboard writes to the run folder, wandb sends to Weights & Biases
    (WANDB_MODE=offline keeps it local). Each needs its package."""

    @field_validator("class_word", "token")
    @classmethod
    def _one_line(cls, value: str, info: Any) -> str:
        value = one_form(value.strip())
        if not value:
            what = (
                'the class of the subject, e.g. "dog"' if info.field_name == "class_word" else 'a rare word, e.g. "sks"'
            )
            raise ValueError(f"{info.field_name} is empty: set it to {what}")
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
                raise ValueError(f"compose_with = {thing!r} must name a thing in plain words, e.g. mug")
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
                raise ValueError(f"{info.field_name} = {template!r}: the only placeholders are {{token}} and {{class}}")
            if not template.strip():
                raise ValueError(f"{info.field_name} is empty: write a prompt")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, templates in {"instance_prompt": (self.instance_prompt,), "prompts": self.prompts}.items():
            for template in templates:
                if not holds(self.prompt(template), self.token):
                    raise ValueError(
                        f"{name} = {template!r} must contain {{token}} as a whole word: only that recalls the subject"
                    )
        for template in self.class_prompts or (self.class_prompt,):
            # A token that is part of the class itself is only remarked on: see data.words.
            if self.prior and holds(template.format(**{"token": self.token, "class": ""}), self.token):
                raise ValueError(
                    f"class prompt {template!r} contains the token {self.token!r}: remove it, class images show others"
                )
        if self.compose_with and not self.compose:
            raise ValueError("compose_with needs composites: set compose too, e.g. to 0.3")
        if self.compose and (named := next((it for it in self.other_things if holds(it, self.token)), None)):
            raise ValueError(
                f"compose puts {named!r} beside the subject, but that contains the token {self.token!r}: set "
                "compose_with to other things, e.g. mug"
            )
        if len(self.class_prompts) > 1 and self.prior_from == "prediction":
            raise ValueError(
                "prior_from = 'prediction' takes a single class prompt: set class_prompt, or prior_from = 'pictures'"
            )
        if self.prior and len(self.prior_prompts) > self.prior_images:
            raise ValueError(
                f"prior_images = {self.prior_images} is too few for the {len(self.prior_prompts)} class prompts: "
                "use at least one image per prompt"
            )
        if self.pivotal and not re.fullmatch(r"\w+", self.token):
            raise ValueError(f"token = {self.token!r} must be one word of letters and digits if pivotal is set")
        if self.targets == "none" and not (self.pivotal or self.text_encoder):
            raise ValueError(
                "targets = 'none' leaves nothing to train: set pivotal, e.g. to 2, or choose other targets"
            )
        if self.text_encoder_lr is not None and not self.text_encoder:
            raise ValueError(f"text_encoder_lr = {self.text_encoder_lr:g} needs text_encoder = true: set that too")
        if self.pivotal_lr is not None and not self.pivotal:
            raise ValueError(f"pivotal_lr = {self.pivotal_lr:g} needs pivotal: set that too, e.g. to 2")
        if self.debiased and self.snr_gamma is not None:
            raise ValueError("debiased and snr_gamma both weight noise levels: set only one of them")
        if self.timestep_max is not None and self.timestep_min >= self.timestep_max:
            raise ValueError(f"timestep_min = {self.timestep_min} must be less than timestep_max = {self.timestep_max}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} must be less than steps = {self.steps}")
        if not self.score_every and (self.keep == "best" or self.early_stop):
            raise ValueError("keep = best and early_stop need scores: set score_every, e.g. to 50")
        if self.score_every > self.steps:
            raise ValueError(
                f"score_every = {self.score_every} is more than steps = {self.steps}: lower it, or nothing is evaluated"
            )
        return self

    @property
    def instance_prompts(self) -> tuple[str, ...]:
        """Prompts of images without a caption, filled in."""
        return tuple(map(self.prompt, self.prompts or (self.instance_prompt,)))

    @property
    def prior_prompts(self) -> tuple[str, ...]:
        """Prompts of the class images, filled in, without duplicates."""
        return tuple(dict.fromkeys(map(self.prompt, self.class_prompts or (self.class_prompt,))))

    @property
    def prior_shares(self) -> dict[str, int]:
        """Number of class images per class prompt, about equal."""
        each, rest = divmod(self.prior_images, len(self.prior_prompts))
        return {prompt: each + (place < rest) for place, prompt in enumerate(self.prior_prompts)}

    @property
    def other_things(self) -> tuple[str, ...]:
        """Things placed beside the subject in composites."""
        return tuple(dict.fromkeys(map(self.prompt, self.compose_with or ("{class}",))))

    @classmethod
    def answer_to(cls, key: str, value: Any) -> str | None:
        """See Config."""
        return answer_to(key, value)

    def prompt(self, template: str) -> str:
        """Fill {token} and {class} into a prompt template."""
        return template.format(**{"token": self.token, "class": self.class_word})
