"""The point of it all: an adapter carries a subject over. Trains for minutes."""

import json
from pathlib import Path
from random import Random

import pytest

from dreamtune.adapters import AdapterFile
from dreamtune.evaluation import measure_personalization
from dreamtune.models import load_base
from dreamtune.pipelines.evaluate.run import EvaluateConfig, evaluate
from dreamtune.pipelines.train.run import train
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import random_subject
from dreamtune.training.config import TrainConfig
from tests.house.tree import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_preset_teaches_the_sample_cat_and_spares_other_cats(tmp_path: Path) -> None:
    images = ROOT / "examples" / "subjects" / "cat"
    config = TrainConfig(images=images, class_word="cat", score_every=350, keep="best")
    result = train(config, tmp_path / "run")

    report = evaluate(EvaluateConfig(adapter=str(result.adapter), images=images), tmp_path / "report").to_dict()
    likeness, prompt = report["likeness"], report["prompt_fidelity"]
    assert report["subject_fidelity"]["adapter"] > 0.5
    assert likeness["real"] > likeness["adapter"] > likeness["base"] + 0.3
    assert prompt["adapter"] >= 0.9 * prompt["base"]
    assert report["leak"] < 0.3

    base = load_base("pocket")
    with AdapterFile.load(result.adapter).attach(base.unet, strength=0.5) as attached:
        subject = random_subject(Random("subject 39"), "cat")
        measured = measure_personalization(base, attached, Evaluators.load(), subject)
        assert attached.strength == 0.5  # as it was
    assert measured.subject.share == pytest.approx(report["subject_fidelity"]["adapter"], abs=0.15), (
        "unseen renders too"
    )
    assert measured.leak < 0.3
    assert measured.context_after >= measured.context_before - 0.1
    assert measured.figures.prompt >= 0.9

    curve = [json.loads(line) for line in (result.run / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == [350, 700]
    assert result.best_step in {line["step"] for line in curve if line["acceptable"]}
