"""The first phase of a training: all checks, before anything is computed or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dreamtune.adapters import METHODS
from dreamtune.data import cache_eviction
from dreamtune.data.auto_masks import with_masks
from dreamtune.data.buckets import Framing
from dreamtune.data.composites import Composite, mask_digest, plan_composites
from dreamtune.data.encode import open_again
from dreamtune.data.images import Remark
from dreamtune.data.subject import Subject, check_folder, load_subject
from dreamtune.data.words import Reading, brief, caption_remarks, length_remarks, syntax_remarks, token_remarks
from dreamtune.errors import ConfigError, DatasetError
from dreamtune.models import Base, family_of, load_base
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train import trackers
from dreamtune.pipelines.train.check import patiently
from dreamtune.pipelines.train.prepared import Prepared
from dreamtune.pipelines.train.resume import Past, find_places, weights_of, weights_of_judge
from dreamtune.pipelines.train.scores import find_judge
from dreamtune.pipelines.train.start_file import StartFile
from dreamtune.training import optimizers
from dreamtune.training.attaching import attach_all
from dreamtune.training.config import TrainConfig
from dreamtune.training.objective import Objective


def preflight(config: TrainConfig, folder: RunFolder, resume: bool, on_progress: OnProgress) -> Prepared:
    """Check everything that can be checked before training starts; cheap checks come before the base is loaded.

    Writes nothing except singular vectors in the cache. Raises ConfigError, DatasetError, BaseModelError and
    RunFolderError.
    """
    for remark in config.remarks:
        on_progress(Progress("remark", message=remark))
    past = Past.of(folder) if resume else None
    if past:
        config = find_places(config, past, on_progress)
    start = StartFile.load(config.start_from) if config.start_from and not (past and past.step) else None
    if start:
        config = start.fill(config)
    images = check(config, folder, resume)

    asked = "compose" in config.model_fields_set
    config = config.with_presets(family_of(config.base))  # which also say in what precision to load it
    _check_length(config, resume, on_progress)
    base = load_base(config.base, device=config.device, precision=config.precision)
    resolution = config.resolution or base.resolution
    encoders = {name: _from_anywhere(place) for name in ("dino", "clip") if (place := getattr(config, name))}
    config = config.changed(images=images, resolution=resolution, base=_from_anywhere(config.base), **encoders)
    past = past.check_settings(config, on_progress) if past else None
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
        on_progress=patiently(on_progress),
    )
    objective = Objective.of(base.noise_scheduler().alphas_cumprod, base.prediction_type, config)
    attached = attach_all(base, config, _on_singular_vectors(config, on_progress))
    started = {"started_from": start.begin(config, base, attached, on_progress)} if start else {}
    optimizers.check(config, attached.parameter_groups())
    if config.masks == "auto":  # after all that may be refused: it takes a second or two a picture
        subject = _with_masks(subject, base, on_progress)
    words = () if config.pivotal else token_remarks(config.token, config.class_word, base.tokenizer)
    captions = caption_remarks(subject.photos, base.tokenizer, (config.token,), _new_words(config))
    config, composites, left_out = _composites(config, subject, asked)
    subject = replace(subject, remarks=(*words, *prompts, *subject.remarks, *captions, *left_out))
    for remark in subject.remarks:
        on_progress(Progress("remark", message=str(remark)))
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
    """The part of the preflight that takes no time; returns the image folder. Raises what preflight does."""
    folder.check(resume)

    images = check_folder(config.images)
    config.method_config()
    trackers.check(config.trackers)
    cache_eviction.limit()
    return images


def _check_length(config: TrainConfig, resume: bool, on_progress: OnProgress) -> None:
    """Raise ConfigError if there are too few steps for all that the method does; a resumed run only gets a remark."""
    missing = config.method_config().too_short(config.steps)
    if missing and not resume:
        raise ConfigError(missing)
    if missing:
        on_progress(Progress("remark", message=missing))


def _composites(
    config: TrainConfig, subject: Subject, asked: bool
) -> tuple[TrainConfig, tuple[Composite, ...], tuple[Remark, ...]]:
    """The composites of a training. If a preset asks for them but the images do not allow them, they are skipped.

    asked: whether the user set them: then ConfigError or DatasetError is raised instead.
    """
    if not config.compose:
        return config, (), ()
    try:
        return config, *plan_composites(subject, config.other_things, config.seed)
    except (ConfigError, DatasetError) as error:
        if asked:
            raise type(error)(f"{error}, or set compose to 0") from None
        remark = Remark("composites", "are skipped", str(error))
        return config.changed(compose=0.0), (), (remark,)


def _with_masks(subject: Subject, base: Base, on_progress: OnProgress) -> Subject:
    """A mask for every image that has none, as `dreamtune mask` makes them."""

    def follow(done: int, of: int) -> None:
        on_progress(Progress("masks", done, of))

    photos, remarks = with_masks(base, subject.photos, subject.class_word, open_again, base.factor, on_progress=follow)
    return replace(subject, photos=photos, remarks=(*subject.remarks, *remarks))


def _prompt_remarks(config: TrainConfig, base: Base) -> list[Remark]:
    """Remarks on prompts of the settings that are too long for the base, or contain other programs' syntax.

    Raises ConfigError for an instance prompt whose token would be cut off: it would be trained without it.
    """
    words, prompts = _new_words(config), list[tuple[str, str]]()
    for prompt in config.instance_prompts:
        reading = Reading.of(prompt, base.tokenizer, words)
        if reading.loses(config.token):
            name = "prompts" if config.prompts else "instance_prompt"
            raise ConfigError(
                f"{name} = {brief(prompt)!r} has {reading.length} tokens, but the base reads only the first "
                f"{reading.room}, without {config.token!r}: move it closer to the beginning"
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
    """The token, if it has embeddings of its own, with as many numbers as it has vectors."""
    return {config.token: range(config.pivotal)} if config.pivotal else {}


def _on_singular_vectors(config: TrainConfig, on_progress: OnProgress) -> Callable[[int, int], None] | None:
    """Progress of a method's initialization that can take minutes; None for methods that start at once."""
    if not METHODS[config.method].needs_singular_vectors:
        return None
    return lambda done, total: on_progress(Progress("singular vectors", done, total))


def _from_anywhere(name: str) -> str:
    """The path of a model made absolute, so that the run can be resumed from any folder; names stay as they are."""
    place = Path(name).expanduser()
    return str(place.resolve()) if name != "pocket" and place.exists() else name
