"""A loaded base model of the Stable Diffusion 1.x/2.x design, and what all bases have in common."""

# diffusers and transformers annotate arguments and results more narrowly than they accept and return.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal, Self, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from dreamtune.adapters import AdapterFile, AttachedParts, NewToken
from dreamtune.adapters.parts import UNET
from dreamtune.errors import BaseModelError, ConfigError
from dreamtune.names import AUTO_SAMPLER

from .conditioning import Conditioning, pipeline_inputs
from .device import exact_convolutions
from .emphasis import Emphasis, emphasized
from .prompts import tokenize
from .samplers import from_image, make_sampler, with_zero_snr

PredictionType = Literal["epsilon", "v_prediction"]
"""What a UNet predicts: the noise, or v (Salimans and Ho 2022)."""

BATCH_PIXELS = 2**20
"""Pictures drawn at once have together about this many pixels."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The parts of a base model, frozen and in evaluation mode on `device`.

    UNet and text encoders have the precision they were loaded in. The VAE is fp32 always: SDXL's overflows in fp16, and
    it has a part only in the few moments when pictures are encoded or decoded.
    """

    id: str
    """What adapter files record: "pocket", a hub id, or the name of a folder or file (never its path)."""
    family: str
    """"pocket", "sd1", "sd2" or "sdxl"; decides the presets."""
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Any
    """The sampler that the base ships; :meth:`pipeline` works on a copy."""
    device: torch.device
    zeros_for_empty: bool = False
    """Whether an empty negative prompt is all zeros, not the embedding of no words, as in the published SDXL."""
    words: list[NewToken] = field(default_factory=list)
    """Those that prompts may hold besides the tokenizer's; see :meth:`add_token`."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The models that adapters can change, by the names that adapter files have for them."""
        return {"unet": self.unet, "text_encoder": self.text_encoder}

    @property
    def factor(self) -> int:
        """Pixels along a side of one latent cell."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures the base was trained on."""
        size = self.unet.config["sample_size"]
        return (size if isinstance(size, int) else max(size)) * self.factor

    @property
    def prediction_type(self) -> PredictionType:
        """What the UNet predicts. Raises BaseModelError if it cannot be trained here."""
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise BaseModelError(f"the base {self.id} predicts {kind!r}; only epsilon and v_prediction are known")
        return kind

    def noise_scheduler(self) -> DDPMScheduler:
        """The forward process that the base was trained with."""
        return cast(DDPMScheduler, DDPMScheduler.from_config(self.scheduler.config))

    def with_zero_terminal_snr(self) -> Self:
        """The same parts, to draw under noise that leaves nothing of the picture at its last step.

        For adapters that were trained so; the UNet has to predict v.
        """
        return replace(self, scheduler=with_zero_snr(self.scheduler))

    def batch_for(self, size: int) -> int:
        """How many pictures of `size` pixels a side to draw at once: overhead bounds small ones, memory large ones."""
        return min(8, max(1, BATCH_PIXELS // size**2))

    def pipeline(self) -> Any:
        """A silent diffusers pipeline on these very parts, so that attached adapters take effect."""
        pipeline = StableDiffusionPipeline(
            **self._components(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _components(self) -> dict[str, Any]:
        """What every pipeline is made of; the scheduler is a copy."""
        return {
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "unet": self.unet,
            "scheduler": type(self.scheduler).from_config(self.scheduler.config),
        }

    @exact_convolutions()
    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        size: int,
        steps: int,
        guidance: float,
        negative_prompt: str = "",
        scheduler: str = AUTO_SAMPLER,
        init: Tensor | None = None,
        denoise: float = 1.0,
        prompt_weights: bool = False,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Scaled latents (n, c, h, w) fp32 of one square picture of `size` pixels for each prompt.

        Picture i starts from the noise of a CPU generator seeded with `seeds[i]`: on every device, and whatever is
        drawn beside it. The base's own sampler, or another one of SAMPLERS, does `steps` steps; `guidance` is
        classifier-free, 1 is none. Without a negative prompt it leads away from what the base takes for an empty one.

        init: scaled latents (1 or n, c, h, w) to start from, with the noise that is left for the last share `denoise`
        of the steps, as in SDEdit (Meng et al., arXiv 2108.01073). prompt_weights: see :meth:`condition`. on_step:
        told before each step which it is (0, 1, ...) and how many are done; samplers of higher order have more than
        `steps`. Raises ConfigError for a sampler that is unknown or does not fit the base.
        """
        # Drawn in fp32 whatever the UNet's precision, so that the seed means the same picture in all of them.
        shape = (1, self.unet.config["in_channels"], size // self.factor, size // self.factor)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        wanted = [it.to(dtype=self.unet.dtype) for it in self.condition(prompts, weights=prompt_weights)]
        (unwanted,) = self.condition([negative_prompt], weights=prompt_weights)
        unwanted = unwanted if negative_prompt else self.emptied(unwanted)
        pipeline = self.pipeline()
        pipeline.scheduler = make_sampler(scheduler, self.scheduler)
        start: dict[str, Any] = {"latents": noise.to(self.unet.dtype), "height": size, "width": size}
        if init is not None:
            place = {"device": self.device, "dtype": self.unet.dtype}
            pipeline = from_image(pipeline, init.to(**place), noise.to(**place))
            start = {"image": torch.zeros(len(seeds), 3, size, size), "strength": denoise}
        steps_done = count()
        hook = self.unet.register_forward_pre_hook(  # a step is one call of the UNet
            lambda *_: on_step and on_step(next(steps_done), pipeline.num_timesteps)
        )
        try:
            output = pipeline(
                **pipeline_inputs("", wanted),
                **pipeline_inputs("negative_", [unwanted.to(dtype=self.unet.dtype)] * len(prompts)),
                **start,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators,  # their noise goes on from here in samplers that add some at every step
                output_type="latent",
            )
        finally:
            hook.remove()
        return cast(Tensor, output.images).float()

    def to_pictures(self, latents: Tensor) -> list[Image.Image]:
        """Decoded pictures of scaled, finite latents (n, c, h, w)."""
        pixels = self.decode(latents).float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        return [Image.fromarray(picture) for picture in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    @exact_convolutions()
    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Scaled latents (n, c, h, w) of pictures (n, 3, H, W) in [-1, 1]: the mode of the VAE's posterior."""
        latents = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mode()
        return (latents - self._shift) * self.vae.config["scaling_factor"]

    @exact_convolutions()
    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, H, W), about [-1, 1], of scaled latents."""
        latents = latents.to(self.device, self.vae.dtype) / self.vae.config["scaling_factor"] + self._shift
        return self.vae.decode(latents).sample

    def release(self) -> None:
        """Give back the memory of VAE and text encoders, for good: of this base only the UNet can be used from here."""
        for module in (self.vae, *(model for part, model in self.parts.items() if part != UNET)):
            module.to("meta")

    def condition(
        self, prompts: Sequence[str], *, gradients: bool = False, weights: bool = False
    ) -> list[Conditioning]:
        """What the UNet is told of each prompt, cut to the encoder's length, in fp32; the same as the pipeline's.

        gradients: keep what is needed to train adapters on the text encoders. weights: read brackets as weights of
        words, see emphasis.Emphasis; SDXL's pooled state stays what it is. Raises ConfigError for weights that are too
        large.
        """
        with torch.set_grad_enabled(gradients):
            if not weights:
                return self._condition(list(prompts))
            read = [Emphasis.of(prompt) for prompt in prompts]
            return self._condition([it.text for it in read], read)

    def emptied(self, read: Conditioning) -> Conditioning:
        """What the base was trained to take for no prompt, which guidance leads away from; `read`: of an empty one."""
        if not self.zeros_for_empty:
            return read
        # zeros that are made of it, since there must be a gradient where text encoders are trained
        pooled = None if read.pooled is None else read.pooled * 0 + 0
        return Conditioning(read.embedding * 0 + 0, pooled)

    def add_token(self, word: NewToken) -> None:
        """Let prompts mean `word` by its text, until it is detached.

        Raises ConfigError if there is such a word already, IncompatibleModelError if it is for another base.
        """
        self.words[:] = [known for known in self.words if known.installed]
        if any(known.word.lower() == word.word.lower() for known in self.words):
            raise ConfigError(f"two adapters have their own embeddings for {word.word!r}: use only one of them")
        word.install({part: model for part, model in self.parts.items() if part != UNET})
        self.words.append(word)

    def attach(self, file: AdapterFile, strength: float = 1.0, *, any_base: bool = False) -> AttachedParts:
        """Attach all that an adapter file contains: its changes of UNet and text encoders, and its tokens' embeddings.

        The embeddings do not depend on the strength, unless it is 0. Raises as :meth:`add_token` and
        AdapterFile.attach_parts do; nothing is attached then.
        """
        attached = AttachedParts(file.attach_parts(self.parts, any_base=any_base), *file.words(), strength=strength)
        try:
            for word in attached.words:
                self.add_token(word)
        except Exception:
            attached.detach()
            raise
        return attached

    def tokens(self, prompt: str) -> dict[str, list[int]]:
        """Text encoder -> the numbers that it is given for a prompt; with its weights they decide what that means."""
        return {part: self._tokens(part, [prompt])[0][0].tolist() for part in self._tokenizers()}

    def word_vectors(self, text: str) -> dict[str, Tensor]:
        """Text encoder -> mean (dim,) of the embeddings of the tokens of `text`, fp32 on the CPU."""
        return {part: self._mean_vector(part, tokenizer, text) for part, tokenizer in self._tokenizers().items()}

    def _mean_vector(self, part: str, tokenizer: CLIPTokenizer, text: str) -> Tensor:
        numbers = tokenizer(text, add_special_tokens=False).input_ids
        matrix = cast(Any, self.parts[part]).get_input_embeddings().weight
        return matrix.detach()[numbers].float().mean(0).cpu()

    def _tokenizers(self) -> dict[str, CLIPTokenizer]:
        """Text encoder -> its tokenizer."""
        return {"text_encoder": self.tokenizer}

    def _tokens(self, part: str, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """See :func:`tokenize`; for this part, on its device."""
        numbers, mask = tokenize(self._tokenizers()[part], prompts, self._new_words(part))
        return numbers.to(self.device), mask.to(self.device)

    def _new_words(self, part: str) -> dict[str, range]:
        """Those that prompts may hold -> their numbers in the vocabulary of `part`."""
        return {word.word: word.numbers(part) for word in self.words if word.installed and word.active}

    def _weighed(self, part: str, states: Tensor, read: Sequence[Emphasis]) -> Tensor:
        """States (n, tokens, dim) of `part` in fp32, of n prompts with weights or of any without."""
        if not read:
            return states.float()
        tokenizer, words = self._tokenizers()[part], self._new_words(part)
        return emphasized(states.float(), [it.of_tokens(tokenizer, words) for it in read])

    def _condition(self, prompts: list[str], read: Sequence[Emphasis] = ()) -> list[Conditioning]:
        """See :meth:`condition`; read: the same prompts with their weights, if they have some."""
        numbers, mask = self._tokens("text_encoder", prompts)
        uses_mask = getattr(self.text_encoder.config, "use_attention_mask", None)
        states = self.text_encoder(numbers, attention_mask=mask if uses_mask else None)[0]
        return [Conditioning(embedding) for embedding in self._weighed("text_encoder", states, read)]

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0
