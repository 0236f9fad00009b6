"""Prompts of which the base does not read the end are remarked on, and no token is trained that is not read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreamtune.errors import ConfigError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.generate.config import read_prompts
from dreamtune.pipelines.generate.metadata import again
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.check import check
from dreamtune.pipelines.train.preflight import preflight
from dreamtune.pipelines.train.run import TrainResult, train
from dreamtune.training.config import TrainConfig

Y = "y" * 75
"""As many tokens as the tiny base reads."""


def test_prompts_of_pictures(draw: Any, trained: TrainResult) -> None:
    region = f"{trained.adapter}@0,0,0.5,1=a {Y} sks"
    result = draw(
        prompts=["a sks dog", f"a sks dog {Y}", f"a {Y} sks", f"a {Y} sks"], negative_prompt=f"{Y}z", regions=[region]
    )
    starts = [
        "the prompt 'a sks dog yyy",
        "the prompt 'a yyy",
        "the negative prompt: has",
        "the prompt of region 1: has",
    ]
    assert len(result.remarks) == len(starts)
    assert all(remark.startswith(start) for remark, start in zip(result.remarks, starts, strict=True))
    first, second, negative, in_region = result.remarks
    assert "has 82 tokens, of which the base reads 75; shorten it: 'yyy" in first and first.endswith("is cut off")
    assert second.endswith("is cut off, and 'sks' with it") and in_region.endswith("is cut off, and 'sks' with it")
    assert "has 76 tokens" in negative and negative.endswith("is cut off")


def test_the_word_for_the_subject_is_looked_for_as_training_looks_for_it(draw: Any, trained: TrainResult) -> None:
    """Whole words, in small letters or large: in prompts, in regions, in captions and in the instance prompt."""
    region = f"{trained.adapter}@0,0,0.5,1="
    assert draw("large", prompts=["a SKS dog"], regions=[f"{region}Sks dog"]).remarks == ()
    flasks = draw("part", prompts=["a man asks for flasks"], regions=[f"{region}flasks"]).remarks
    assert [remark.partition(" 'sks'")[0] for remark in flasks] == [
        "no prompt contains",
        "the prompt of region 1 does not contain",
    ]


def test_captions_are_searched_for_the_token_by_all_who_read_them(
    settings: Callable[..., TrainConfig], photos: Path, tmp_path: Path
) -> None:
    images = tmp_path / "words"
    shutil.copytree(photos, images)
    pictures = sorted(path for path in images.iterdir() if path.suffix == ".png")
    texts = ["a photo of SKS dog", "a man asks a question", "flasks on a table"]
    for picture, text in zip(pictures, texts, strict=False):
        picture.with_suffix(".txt").write_text(text)
    config = settings(images=images)
    prepared = preflight(config, RunFolder(tmp_path / "run"), False, lambda _: None)
    for remarks in (prepared.subject.remarks, check(images, str(config.base), token="sks").remarks):
        lacking = [it.file for it in remarks if it.problem == "does not contain the token 'sks'"]
        assert lacking == [picture.with_suffix(".txt").name for picture in pictures[1:3]]


def test_the_token_of_a_prompt_is_a_word_of_its_own(settings: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ConfigError, match="as a whole word"):
        settings(instance_prompt="a {token}s {class}")
    assert settings(instance_prompt="a SKS {class}").token == "sks"


def test_what_is_for_other_programs_is_remarked_on(draw: Any, trained: TrainResult) -> None:
    region = f"{trained.adapter}@0,0,0.5,1=a sks ((dog))"
    prompt = "a (sks:1.3) dog <lora:my_dog:0.8>"
    found = draw(prompts=[prompt], negative_prompt="[[red]]", regions=[region]).remarks
    assert found == (
        f"the prompt {prompt!r}: contains '<lora:my_dog:0.8>', which is read as plain words; use the file instead: "
        "--adapter my_dog.safetensors:0.8",
        f"the prompt {prompt!r}: contains '(sks:1.3)', whose weight is ignored; turn on prompt_weights "
        "(--prompt-weights) to apply it",
        "the negative prompt: contains '[[red]]', whose weight is ignored; turn on prompt_weights (--prompt-weights) "
        "to apply it",
        "the prompt of region 1: contains '((dog))', whose weight is ignored; turn on prompt_weights "
        "(--prompt-weights) to apply it",
    )
    assert draw("plain", prompts=["a sks dog (asleep), 16:9, f(x)"]).remarks == ()
    editing = draw("on", prompts=["a (sks:1.3) [cat:dog:0.5]"], prompt_weights=True).remarks
    assert [remark.partition(";")[0] for remark in editing] == [
        "the prompt 'a (sks:1.3) [cat:dog:0.5]': contains '[cat:dog:0.5]', but prompt editing is not supported"
    ]


def test_weights_of_words_are_off_unless_asked_for(draw: Any, tiny: Path, trained: TrainResult) -> None:
    """In prompts, in the negative one and in regions; the picture says so, and is drawn again from what it says."""
    region = f"{trained.adapter}@0,0,0.5,1="
    plain = {
        "prompts": ["a sks dog"],
        "negative_prompt": "red",
        "regions": [f"{region}a sks dog"],
        "guidance": 3.0,
        "n": 1,
    }
    changes = {"prompts": ["a (sks:1.5) dog"], "negative_prompt": "(red:2)", "regions": [f"{region}a (sks:3) dog"]}
    pixels = Image.open(draw("plain", **plain).files[0]).tobytes()
    same = draw("same", **plain | {"prompts": ["a (sks:1) dog"]}, prompt_weights=True)
    assert Image.open(same.files[0]).tobytes() == pixels
    for name, value in changes.items():
        drawn = draw(name, **plain | {name: value}, prompt_weights=True).files[0]
        assert Image.open(drawn).tobytes() != pixels, name
        told = json.loads(Image.open(drawn).text["dreamtune"])  # pyright: ignore[reportAttributeAccessIssue]
        assert told["prompt_weights"] is True
        assert again(drawn, base=str(tiny), adapters=(), regions=()).prompt_weights
        assert not again(drawn, base=str(tiny), adapters=(), regions=(), prompt_weights=False).prompt_weights
    long = draw("long", prompts=[f"({'y' * 75}:1.1)"], adapters=[], prompt_weights=True)
    assert long.remarks == (), "brackets are not among the tokens"
    with pytest.raises(ConfigError, match="has the weight 50: use weights from -10 to 10"):
        draw("much", prompts=["a (sks:50) dog"], prompt_weights=True)


def test_what_is_for_other_programs_in_a_training(
    settings: Callable[..., TrainConfig], photos: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(photos, images)
    (first, *_) = sorted(path for path in images.iterdir() if path.suffix == ".png")
    first.with_suffix(".txt").write_text("a sks dog, (asleep:1.2)")
    config = settings(images=images, instance_prompt="a {token} {class} <lora:x:1>")
    remarks = preflight(config, RunFolder(tmp_path / "run"), False, lambda _: None).subject.remarks
    assert [str(remark) for remark in remarks] == [
        "instance_prompt: contains '<lora:x:1>', which is read as plain words; remove it: training uses no other "
        "adapters",
        f"{first.name}: contains '(asleep:1.2)', whose weight is ignored; write only the words",
    ]


def test_only_regular_files_are_read_as_prompts_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, out = tmp_path / "pipe.png", str(tmp_path / "out")
    os.mkfifo(pipe)
    for arguments in (["--prompts", str(pipe)], ["--prompt", "a dog", "--init", str(pipe)], ["--from", str(pipe)]):
        assert main(["generate", *arguments, "--out", out]) == 2
        assert "pipe.png" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot read the prompts in .*not a regular file"):
        read_prompts(Path("/dev/zero"))
    assert not Path(out).exists()


def test_a_word_of_its_own_is_as_long_as_its_vectors(
    draw: Any, settings: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = settings(pivotal=2, targets="none", prior=False, steps=1)
    adapter = str(train(config, tmp_path / "run", on_progress=lambda _: None).adapter)
    assert draw("fits", adapters=[adapter], prompts=[f"{Y[:73]} sks"]).remarks == ()
    (remark,) = draw("cut", adapters=[adapter], prompts=[f"{Y[:74]} sks"]).remarks
    assert "has 76 tokens" in remark and remark.endswith("'sks' is cut off, and 'sks' with it")


def test_prompts_of_a_training(settings: Callable[..., TrainConfig], tmp_path: Path) -> None:
    told: list[Progress] = []
    config = settings(
        instance_prompt=f"a {{token}} {{class}} {Y}",
        class_prompt=f"a {{class}} {Y}",
        sample_prompts=(f"{Y} {{token}}", f"{Y} {{token}}", f"{Y} {{class}}s", "a {token}"),
        sample_every=1,
    )
    preflight(config, RunFolder(tmp_path / "run"), False, told.append)
    starts = [
        "instance_prompt: has 82",
        "class_prompt: has 79",
        *(f"sample prompt '{'y' * 39}…': has {n}" for n in (78, 79)),
    ]
    remarks = [it.message for it in told if it.phase == "remark" and "of which the base reads 75" in it.message]
    assert [remark.partition(" tokens")[0] for remark in remarks] == starts
    assert [remark.endswith("and 'sks' with it") for remark in remarks] == [False, False, True, False]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pivotal", "before", "refused"), [(0, 72, False), (0, 73, True), (2, 73, False), (2, 74, True)]
)
def test_a_token_that_is_not_read_is_not_trained(
    settings: Callable[..., TrainConfig], tmp_path: Path, pivotal: int, before: int, refused: bool
) -> None:
    config = settings(instance_prompt=f"{Y[:before]} {{token}} {{class}}", pivotal=pivotal)
    if not refused:
        preflight(config, RunFolder(tmp_path / "run"), False, lambda _: None)
        return
    with pytest.raises(ConfigError, match="but the base reads only the first 75, without 'sks'") as caught:
        train(config, tmp_path / "run", on_progress=lambda _: None)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
