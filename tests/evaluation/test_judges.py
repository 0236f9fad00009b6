"""Judges: pocket's evaluators, and DINO with CLIP."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer, Dinov2Model

from dreamtune.errors import ConfigError
from dreamtune.evaluation import load_judge
from dreamtune.evaluation.pocket_judge import shown
from dreamtune.pocket import draw_subject
from dreamtune.pocket.evaluators import Found, Reading
from tests.tiny_encoders import tiny_clip, tiny_dino

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return tiny_dino(folder / "my-dino"), tiny_clip(folder / "my-clip")


def pictures(count: int) -> list[Image.Image]:
    return draw_subject(7, count, size=64)


def reading(cls: str, color: str, context: str) -> Reading:
    return Reading(context, (Found(cls, color, "plain", None, None, (0.0, 0.0, 1.0, 1.0), 1.0),))


@pytest.mark.parametrize(
    ("picture", "prompt", "share"),
    [
        (reading("cat", "blue", "snow"), "a cat in the snow", 1.0),
        (reading("cat", "blue", "snow"), "a red cat in the snow", 2 / 3),
        (reading("dog", "red", "desert"), "a dog on the beach", 1 / 2),
        (reading("dog", "red", "desert"), "a cat", 0.0),
    ],
)
def test_pocket_counts_context_class_and_named_colour(picture: Reading, prompt: str, share: float) -> None:
    assert shown(picture, prompt) == pytest.approx(share)


def test_pocket_cannot_tell_of_other_words() -> None:
    assert shown(reading("cat", "blue", "snow"), "hello") != shown(reading("cat", "blue", "snow"), "hello"), "NaN"


def test_pocket_knows_individuals_and_reads() -> None:
    judge = load_judge("pocket", CPU)
    one, other = judge.identity(draw_subject(39, 3, cls="cat")), judge.identity(draw_subject(40, 3, cls="cat"))
    torch.testing.assert_close(one.norm(dim=1), torch.ones(3))
    assert (one @ one.T).mean() > (one @ other.T).mean() + 0.2
    scores = judge.prompt_scores(draw_subject(39, 3, cls="cat"), ["a cat", "a house", "hello"])
    assert (scores[:2].tolist(), scores[2].isnan().item()) == ([1.0, 0.0], True)


def test_dino_and_clip_are_those_of_transformers(folders: tuple[Path, Path]) -> None:
    dino, clip = folders
    judge = load_judge("tiny", CPU, str(dino), str(clip))
    assert judge.name == "my-dino and my-clip", "no path of this machine"
    photos, texts = pictures(19), [f"a dog {i}" for i in range(19)]  # more than one batch
    pixels = CLIPImageProcessor.from_pretrained(dino)(images=photos, return_tensors="pt").pixel_values
    tokens = CLIPTokenizer.from_pretrained(clip)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = Dinov2Model.from_pretrained(dino)(pixel_values=pixels).last_hidden_state[:, 0]
        output = CLIPModel.from_pretrained(clip)(**tokens, pixel_values=pixels)
    torch.testing.assert_close(judge.identity(photos), F.normalize(hidden, dim=-1))
    torch.testing.assert_close(
        judge.prompt_scores(photos, texts),
        output.logits_per_image.diagonal() / CLIPModel.from_pretrained(clip).logit_scale.exp().detach(),
        atol=1e-5,
        rtol=1e-4,
    )
    assert judge.prompt_scores(photos, texts).std() > 0


def test_the_first_dino_and_a_long_prompt(folders: tuple[Path, Path], tmp_path: Path) -> None:
    judge = load_judge("tiny", CPU, str(tiny_dino(tmp_path / "vit", "vit")), str(folders[1]))
    assert judge.identity(pictures(2)).shape == (2, 32)
    assert judge.prompt_scores(pictures(1), ["very " * 100 + "long"]).isfinite().all()


def test_photographs_on_pocket_can_have_a_judge_of_their_own(folders: tuple[Path, Path]) -> None:
    assert load_judge("pocket", CPU, *map(str, folders)).name == "my-dino and my-clip"


def test_who_is_missing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    dino, clip = map(str, folders)
    cases = {
        (None, None): r"no judge for images of the base 'tiny': set dino to an identity encoder \(e.g. "
        r"facebook/dinov2-small\) and clip to an image-text encoder",
        (dino, None): "dino is set, but clip is not",
        (None, clip): "clip is set, but dino is not",
        (clip, clip): "dino = '.*my-clip' is a clip: use a model of the type vit or dinov2 ",
        (dino, dino): "clip = '.*my-dino' is a dinov2: use a model of the type clip",
        (str(tmp_path / "none"), clip): "cannot load dino = '.*none'",
    }
    for given, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            load_judge("tiny", CPU, *given)


def test_weights_are_never_unpickled(folders: tuple[Path, Path], tmp_path: Path) -> None:
    dino = tiny_dino(tmp_path / "dino")
    model = Dinov2Model.from_pretrained(dino)
    (dino / "model.safetensors").unlink()
    torch.save(model.state_dict(), dino / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"cannot load dino = .*with model\.safetensors"):
        load_judge("tiny", CPU, str(dino), str(folders[1]))
