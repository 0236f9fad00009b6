"""The first phase of a training: everything that can be checked, before anything is computed or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamtune.errors import ConfigError, DatasetError
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train import trackers
from dreamtune.pipelines.train.check import patiently
from dreamtune.pipelines.train.contents import weights_of, weights_of_judge
from dreamtune.pipelines.train.resume import Past, find_places
from dreamtune.pipelines.train.start_file import StartFile
from dreamtune.storage import atomic
from dreamtune.training.config import TrainConfig

if TYPE_CHECKING:
    from dreamtune.adapters import AttachedParts
    from dreamtune.data.composites import Composite
    from dreamtune.data.images import Remark
    from dreamtune.data.subject import Subject
    from dreamtune.evaluation import Judge
    from dreamtune.models import Base
    from dreamtune.models.conditioning import Conditioning
    from dreamtune.training.data import Conditioner
    from dreamtune.training.objective import Objective


@dataclass(frozen=True)
class Prepared:
    """What has been checked, and is ready to be trained."""

    config: TrainConfig
    """Complete: nothing is left to presets."""
    base: Base
    contents: Mapping[str, str]
    """Hashes of what it is trained with: pictures, base, judge; a run goes on with the same ones only."""
    subject: Subject
    objective: Objective
    attached: AttachedParts
    """On the base with strength 0, which is exactly the base, until training begins."""
    judge: Judge | None = None
    """Who scores the run's pictures; None without scores."""
    composites: Sequence[Composite] = ()
    """Those that are to be made of the subject's pictures; none without `compose`."""
    past: Past | None = None
    """Of a run that goes on."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter's file tells of its training beside the settings, see resume.CARRIED."""

    @property
    def drawing(self) -> Base:
        """The base under the noise of the training, to draw samples and scores; class pictures are drawn by itself."""
        return self.base.with_zero_terminal_snr() if self.config.zero_terminal_snr else self.base

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every prompt that training needs, once: the pictures', with prior preservation the class prompts, with
        caption dropout the empty one, those of composites.
        """
        prior = self.config.prior_prompts if self.config.prior else ()
        empty = ("",) if self.config.caption_dropout else ()
        composed = (text for it in self.composites for text in it.captions(self.name))
        return tuple(dict.fromkeys((*self.subject.prompts, *prior, *empty, *composed)))

    @property
    def name(self) -> str:
        """What captions of composites call the subject."""
        return f"{self.config.token} {self.config.class_word}"

    @property
    def other_shares(self) -> dict[str, int]:
        """Other thing of composites -> how many pictures of it are drawn."""
        from dreamtune.data.composites import others_of_each

        things = self.config.other_things if self.composites else ()
        return dict.fromkeys(things, others_of_each(things)) if things else {}

    def composed_rows(self, composite: Composite) -> tuple[int, ...]:
        """Places in :attr:`texts` of the captions of a composite."""
        return tuple(map(self.texts.index, composite.captions(self.name)))

    @property
    def empty(self) -> int | None:
        """Place of the empty prompt in :attr:`texts`; None if no picture is seen with it."""
        return self.texts.index("") if self.config.caption_dropout else None

    def read(self, texts: Sequence[str], gradients: bool = False) -> list[Conditioning]:
        """What the UNet is told of `texts` now, an empty one being what guidance leads away from."""
        found = self.base.condition(texts, gradients=gradients)
        return [it if text else self.base.emptied(it) for text, it in zip(texts, found, strict=True)]

    def conditioner(self) -> Conditioner | None:
        """What tells the UNet of :attr:`texts` while they change their meaning; None if the cached prompts do."""
        from dreamtune.training.data import LiveConditioner

        if not self.config.trains_text:
            return None
        return LiveConditioner(self.texts, partial(self.read, gradients=True))

    def release(self) -> None:
        """Give back the memory of what the loop does not need, once prompts and pictures are encoded."""
        config = self.config
        if not (config.sample_every or config.score_every or config.trains_text):
            self.base.release()  # it sees nothing but the UNet; pictures on the way and trained prompts need the rest

    def save(self, path: Path, step: int | None = None) -> None:
        """Write the adapter file as it stands, whole or not at all; equal weights give equal bytes.

        step: recorded if given. Raises OSError, AdapterFileError for NaN or infinite values.
        """
        from dreamtune.adapters import AdapterFile
        from dreamtune.adapters.parts import UNET

        config = self.config
        training = config.public() | ({} if step is None else {"kept_step": step}) | dict(self.told)
        parts = self.attached.parts
        file = AdapterFile.from_attached(
            parts.pop(UNET),
            base=self.base.id,
            trigger=config.token,
            class_word=config.class_word,
            training=training,
            text_encoders=parts,
            word=self.attached.word,
        )
        with atomic(path) as temporary:
            temporary.write_bytes(file.to_bytes())


def preflight(config: TrainConfig, folder: RunFolder, resume: bool, tell: OnProgress) -> Prepared:
    """Check everything that can be checked before work begins; the cheap checks come before the base is loaded.

    Writes nothing, but for singular vectors in the cache. Raises ConfigError, DatasetError, BaseModelError and
    RunFolderError.
    """
    past = Past.of(folder) if resume else None
    if past:
        config = find_places(config, past, tell)
    start = StartFile.load(config.start_from) if config.start_from and not (past and past.step) else None
    if start:
        config = start.fill(config)
    images = check(config, folder, resume)

    from dreamtune.data.buckets import Framing
    from dreamtune.data.composites import mask_digest
    from dreamtune.data.subject import load_subject
    from dreamtune.data.words import caption_remarks, token_remarks
    from dreamtune.models import family_of, load_base
    from dreamtune.pipelines.train.scores import find_judge
    from dreamtune.training import optimizers
    from dreamtune.training.attaching import attach_all
    from dreamtune.training.objective import Objective

    asked = "compose" in config.model_fields_set
    config = config.with_presets(family_of(config.base))  # which also say in what precision to load it
    _check_length(config, resume, tell)
    base = load_base(config.base, device=config.device, precision=config.precision)
    resolution = config.resolution or base.resolution
    encoders = {name: _from_anywhere(place) for name in ("dino", "clip") if (place := getattr(config, name))}
    config = config.changed(images=images, resolution=resolution, base=_from_anywhere(config.base), **encoders)
    past = past.check_settings(config, tell) if past else None
    contents = weights_of(base)
    if past:
        past.check(contents, config.base)
    if start:
        start.use.check(base)
    prompts = _prompt_remarks(config, base)
    subject = load_subject(
        images,
        config.class_word,
        config.token,
        Framing.of(base, resolution, config.buckets),
        strict=config.strict,
        prompts=config.instance_prompts,
        masks=bool(config.masks),
        on_progress=patiently(tell),
    )
    objective = Objective.of(base.noise_scheduler().alphas_cumprod, base.prediction_type, config)
    attached = attach_all(base, config, _on_singular_vectors(config, tell))
    started = {"started_from": start.begin(config, base, attached, tell)} if start else {}
    optimizers.check(config, attached.parameter_groups())
    if config.masks == "auto":  # after all that may be refused: it takes a second or two a picture
        subject = _with_masks(subject, base, tell)
    words = () if config.pivotal else token_remarks(config.token, config.class_word, base.tokenizer)
    captions = caption_remarks(subject.photos, base.tokenizer, (config.token,), _new_words(config))
    config, composites, left_out = _composites(config, subject, asked)
    subject = replace(subject, remarks=(*words, *prompts, *subject.remarks, *captions, *left_out))
    for remark in subject.remarks:
        tell(Progress("remark", message=str(remark)))
    pictures = {"pictures": subject.digest + (mask_digest(composites) if composites else "")}
    if past:
        past.check(pictures, images)
    judge = find_judge(config, base, subject)
    of_judge = weights_of_judge(judge)
    if past:
        past.check(of_judge, f"{config.dino} and {config.clip}")
    told = {**(past.training if past else {}), **started}
    contents |= pictures | of_judge
    return Prepared(config, base, contents, subject, objective, attached, judge, composites, past, told)


def check(config: TrainConfig, folder: RunFolder, resume: bool = False) -> Path:
    """The part of the preflight that takes no time; returns the folder of pictures. Raises what preflight does."""
    folder.check(resume)

    from dreamtune.data import cache_eviction
    from dreamtune.data.subject import check_folder

    images = check_folder(config.images)
    config.method_config()
    trackers.check(config.trackers)
    cache_eviction.limit()
    return images


def _check_length(config: TrainConfig, resume: bool, tell: OnProgress) -> None:
    """Raise ConfigError for a method that would not come to all it does; a run that has begun is only told so."""
    missing = config.method_config().too_short(config.steps)
    if missing and not resume:
        raise ConfigError(missing)
    if missing:
        tell(Progress("remark", message=missing))


def _composites(
    config: TrainConfig, subject: Subject, asked: bool
) -> tuple[TrainConfig, tuple[Composite, ...], tuple[Remark, ...]]:
    """The composites of a training; those that a preset wants and the pictures do not allow are left out.

    asked: whether the user wants them: then ConfigError or DatasetError is raised.
    """
    from dreamtune.data.composites import plan_composites
    from dreamtune.data.images import Remark

    if not config.compose:
        return config, (), ()
    try:
        return config, *plan_composites(subject, config.other_things, config.seed)
    except (ConfigError, DatasetError) as error:
        if asked:
            raise
        remark = Remark("composites", "are left out", str(error).removesuffix(", or set compose to 0"))
        return config.changed(compose=0.0), (), (remark,)


def _with_masks(subject: Subject, base: Base, tell: OnProgress) -> Subject:
    """A mask for every picture that has none, as `dreamtune mask` makes them."""
    from dreamtune.data.auto_masks import with_masks
    from dreamtune.data.encode import open_again

    def follow(done: int, of: int) -> None:
        tell(Progress("masks", done, of))

    photos, remarks = with_masks(base, subject.photos, subject.class_word, open_again, base.factor, on_progress=follow)
    return replace(subject, photos=photos, remarks=(*subject.remarks, *remarks))


def _prompt_remarks(config: TrainConfig, base: Base) -> list[Remark]:
    """Remarks on prompts of the settings that are longer than the base reads, or hold what is for other programs.

    Raises ConfigError for one of pictures of which it does not read the token: it would be trained without.
    """
    from dreamtune.data.words import Reading, brief, length_remarks, syntax_remarks

    words, prompts = _new_words(config), list[tuple[str, str]]()
    for prompt in config.instance_prompts:
        reading = Reading.of(prompt, base.tokenizer, words)
        if reading.loses(config.token):
            name = "prompts" if config.prompts else "instance_prompt"
            raise ConfigError(
                f"{name} = {brief(prompt)!r} has {reading.length} tokens, of which the base reads "
                f"{reading.room}; the token {config.token!r} is not among those: write it nearer to the beginning"
            )
        prompts.append((f"prompt {brief(prompt)!r}" if config.prompts else "instance_prompt", prompt))
    if config.prior:
        name = "class_prompts" if config.class_prompts else "class_prompt"
        prompts += [(f"{name} {brief(it)!r}" if config.class_prompts else name, it) for it in config.prior_prompts]
    if config.sample_every:
        samples = dict.fromkeys(map(config.prompt, config.sample_prompts))
        prompts += [(f"sample prompt {brief(prompt)!r}", prompt) for prompt in samples]
    found = [(*length_remarks(*it, base.tokenizer, (config.token,), words), *syntax_remarks(*it)) for it in prompts]
    return [remark for remarks in found for remark in remarks]


def _new_words(config: TrainConfig) -> dict[str, range]:
    """The token, where it is a word of its own, with as many numbers as it has vectors."""
    return {config.token: range(config.pivotal)} if config.pivotal else {}


def _on_singular_vectors(config: TrainConfig, tell: OnProgress) -> Callable[[int, int], None] | None:
    """Shows the start of a method that may take minutes for it; others start in a moment."""
    from dreamtune.adapters import METHODS

    if not METHODS[config.method].needs_singular_vectors:
        return None
    return lambda done, total: tell(Progress("singular vectors", done, total))


def _from_anywhere(name: str) -> str:
    """The path of a model made absolute, so that the run can be resumed from any folder; names stay as they are."""
    place = Path(name).expanduser()
    return str(place.resolve()) if name != "pocket" and place.exists() else name
