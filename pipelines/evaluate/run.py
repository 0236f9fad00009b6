"""From an adapter file and images of its subject to a report on its quality, in numbers and images."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamtune.data.buckets import Framing
from dreamtune.data.subject import check_folder, load_subject
from dreamtune.errors import ConfigError
from dreamtune.evaluation import Evaluation, Measurement, PromptPair, Sampling, load_judge, reference_pictures
from dreamtune.evaluation.best_step import rounded
from dreamtune.evaluation.prompts import default_prompts, parse_prompts
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.evaluate.config import EvaluateConfig
from dreamtune.pipelines.evaluate.report import write_report
from dreamtune.pipelines.generate.config import prompt_lines
from dreamtune.pipelines.generate.prompt_remarks import too_long
from dreamtune.pipelines.output import check_new_folder, complete
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress
from dreamtune.words import same


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured; see :class:`~dreamtune.evaluation.evaluation.Measurement` for the figures."""

    out: Path
    """Folder of the report."""
    adapter: AdapterRef
    base: str
    judge: str
    token: str
    class_word: str
    references: int
    """Real images of the subject that were compared with."""
    sampling: Sampling
    measured: Measurement
    remarks: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without paths."""
        m = self.measured
        return {
            "adapter": self.adapter.to_dict(),
            "base": self.base,
            "judge": self.judge,
            "token": self.token,
            "class": self.class_word,
            "references": self.references,
            "sampling": vars(self.sampling),
            "subject_fidelity": {"base": 0.0, "adapter": rounded(m.subject.share)},
            "likeness": {
                "base": rounded(m.subject.base),
                "adapter": rounded(m.subject.generated),
                "real": rounded(m.subject.real),
            },
            "prompt_fidelity": {"base": rounded(m.prompt_base), "adapter": rounded(m.prompt)},
            "leak": rounded(m.class_word.share),
            "drift": rounded(m.drift),
            "prompts": [
                {
                    "prompt": row.prompt,
                    "likeness": {"base": rounded(row.likeness_base), "adapter": rounded(row.likeness)},
                    "prompt_fidelity": {"base": rounded(row.score_base), "adapter": rounded(row.score)},
                    "drift": rounded(row.drift),
                }
                for row in m.by_prompt
            ],
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 1),
        }


@shows_progress
def evaluate(config: EvaluateConfig, out: str | Path, on_progress: OnProgress = on_stderr) -> EvaluateResult:
    """Evaluate an adapter and write report.json, report.html and pictures.png into the new folder `out`.

    Nothing is written until everything has been measured. Progress goes to `on_progress`, else to stderr.

    Raises ConfigError (also when `out` is not empty, or there is no judge for images of the base),
    AdapterFileError, DatasetError, BaseModelError and IncompatibleModelError for bad input, GenerationError when
    an image comes out as NaN or memory runs out.
    """
    began = time.monotonic()
    folder = Path(out).expanduser()
    use, pairs = check(config, folder)
    token, class_word = _names(config, use)

    base = config.load_base([use])
    judge = load_judge(base.id, base.device, config.dino, config.clip)
    steps, guidance, size = config.sampling(base)
    subject = load_subject(config.images, class_word, token, Framing.of(base, size, buckets=False), masks=False)
    remarks = [*use.remarks, *(str(remark) for remark in subject.remarks if remark.skipped)]
    remarks += dict.fromkeys(it for pair in pairs for it in too_long(pair.named, [use], base, token=token))
    for remark in remarks:
        on_progress(Progress("remark", message=remark))
    references = reference_pictures(subject)
    sampling = Sampling(size, steps, guidance, config.seed, config.n)
    with use.on(base, config.any_base) as attached:
        on_progress(
            Progress("remark", message=f"{3 * config.n * len(pairs)} images to generate, judged by {judge.name}")
        )
        evaluation = Evaluation(base, attached, judge, references, pairs, sampling)
        measured = evaluation.measure(use.strength)
    missing = _remarks(measured, len(references))
    for remark in missing:
        on_progress(Progress("remark", message=remark))
    result = EvaluateResult(
        out=folder,
        adapter=use,
        base=base.id,
        judge=judge.name,
        token=token,
        class_word=class_word,
        references=len(references),
        sampling=sampling,
        measured=measured,
        remarks=(*remarks, *missing),
        seconds=time.monotonic() - began,
    )
    with complete(folder) as temporary:
        temporary.mkdir()
        write_report(temporary, result.to_dict(), measured, references)
    return result


def check(config: EvaluateConfig, folder: Path) -> tuple[AdapterRef, list[PromptPair]]:
    """Check everything that needs no base, and return adapter and prompts. Raises what evaluate does."""
    check_new_folder(folder)
    use = AdapterRef.load(config.adapter)
    pairs = _prompts(config, *_names(config, use))

    check_folder(config.images)
    return use, pairs


def _names(config: EvaluateConfig, use: AdapterRef) -> tuple[str, str]:
    """Token and class word of the subject. Raises ConfigError if neither file nor settings have them."""
    if len(use.file.tokens) > 1 and not config.token:
        raise ConfigError(
            f"{use.path} has several subjects ({use.file.called}): choose one, e.g. --token {use.file.token}"
        )
    token = config.token or use.file.token
    known = next((kind for word, kind in use.file.subjects if same(word, token)), "")
    class_word = config.class_word or known or (use.file.class_word if len(use.file.tokens) < 2 else "")
    for what, value, example in (("token", token, "sks"), ("class", class_word, "dog")):
        if not value:
            raise ConfigError(f"{use.path} does not record its {what}: set it, e.g. --{what} {example}")
    return token, class_word


def _prompts(config: EvaluateConfig, token: str, class_word: str) -> list[PromptPair]:
    if config.prompts is None:
        return default_prompts(token, class_word)
    return parse_prompts(prompt_lines(config.prompts), token, class_word, str(config.prompts))


def _remarks(measured: Measurement, references: int) -> list[str]:
    """Why a number is missing."""
    if references < 2:
        return ["subject fidelity is undefined with only one real image of the subject: add more"]
    remarks = []
    if math.isnan(measured.subject.share):
        remarks.append(
            "subject fidelity is undefined: to the judge, the base's class images are as similar to the subject as its "
            "real images"
        )
    if math.isnan(measured.prompt):
        remarks.append("prompt fidelity is undefined: the judge recognizes nothing that the prompts ask for")
    return remarks
