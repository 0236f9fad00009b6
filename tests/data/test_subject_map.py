"""A base's map of where it sees a class, and the masks that are cut out by it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamtune.data import cutout
from dreamtune.data.subject_map import change_map, class_tokens, color_map, subject_map
from dreamtune.errors import BaseModelError, ConfigError
from dreamtune.models import Base, load_base
from dreamtune.models.attention import attention_averages
from dreamtune.models.conditioning import unet_inputs
from tests.tiny_models import tiny_sdxl_folder


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(str(tiny), device="cpu")


def test_the_words_probabilities_sum_to_one_and_the_pass_stays_what_it_is(base: Base) -> None:
    noised = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    inputs = unet_inputs(base.condition(["a dog"]))
    before = base.unet(noised, 500, **inputs).sample
    with attention_averages(base.unet, "attn2", lambda _: torch.eye(77)[:, :3]) as some:
        beside = base.unet(noised, 500, **inputs).sample
    with attention_averages(base.unet, "attn2", lambda _: torch.ones(77, 1)) as every:
        base.unet(noised, 500, **inputs)
    assert torch.equal(before, beside)
    assert {tuple(it.shape) for it in some} == {(1, 3, 8, 16), (1, 3, 4, 8)}
    assert all(it.sum(1).max() < 1 and it.min() >= 0 for it in some)
    assert all(torch.allclose(it, torch.ones_like(it)) for it in every)


def test_attention_is_that_of_the_layer(base: Base) -> None:
    """What its own processor would give for the values, with the projections around taken away."""
    name, layer = next((name, it) for name, it in base.unet.named_modules() if name.endswith("attn1"))
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
    noised = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    values = torch.randn(64, 2, generator=torch.Generator().manual_seed(2))
    with attention_averages(base.unet, "attn1", lambda size: values[: size[0] * size[1]]) as read:
        base.unet(noised, 500, **unet_inputs(base.condition([""])))
    handle.remove()
    query, key = (it(seen[0])[0].unflatten(1, (layer.heads, -1)) for it in (layer.to_q, layer.to_k))
    scores = torch.einsum("phd,khd->hpk", query, key) / key.shape[-1] ** 0.5
    expected = (scores.softmax(-1) @ values[: scores.shape[-1]]).mean(0)
    assert name.startswith("down_blocks.0")
    assert torch.allclose(read[0][0].flatten(1).T, expected, atol=1e-5)


def test_tokens_of_the_class(base: Base) -> None:
    assert class_tokens(base, "a dog", "dog") == [2, 3, 4]  # one per letter here; 0 is the beginning
    with pytest.raises(ConfigError, match="is too long for the base: name it in a word or two"):
        class_tokens(base, "a " + "x" * 80, "x" * 80)
    with pytest.raises(ConfigError, match="is not a word"):
        class_tokens(base, "a dog", "cat")


@pytest.mark.parametrize("look", [subject_map, color_map])
@pytest.mark.parametrize("design", ["sd1", "sdxl"])
def test_maps_are_from_0_to_1_repeat_and_have_the_pictures_shape(
    base: Base, tmp_path: Path, design: str, look: Callable[..., Tensor]
) -> None:
    if design == "sdxl":
        base = load_base(str(tiny_sdxl_folder(tmp_path / "xl")), device="cpu")
    pixels = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    state = torch.get_rng_state()
    found = look(base, pixels, "dog")
    assert found.shape == (8, 12)
    assert (found.min(), found.max()) == (0, 1)
    assert torch.equal(found, look(base, pixels, "dog"))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("look", [subject_map, color_map])
def test_a_base_that_makes_nan(base: Base, look: Callable[..., Tensor]) -> None:
    with pytest.raises(BaseModelError, match="predicts NaN"):
        look(base, torch.full((3, 32, 32), float("nan")), "dog")


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red disc on noisy green (96, 96, 3), its mask, and a map (12, 12) that knows roughly where it is."""
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 50, x - 40) < 25
    picture = np.where(disc[..., None], (200, 40, 40), (40, 160, 60)).astype(np.int16)
    picture += np.random.default_rng(0).integers(-15, 15, picture.shape)
    found = np.exp(-((np.hypot(*(np.mgrid[:12, :12] - np.array([6.5, 4.0])[:, None, None])) / 3) ** 2))
    return picture.clip(0, 255).astype(np.uint8), disc, found.astype(np.float32)


def test_grab_cut_finds_the_edges_that_the_map_lacks() -> None:
    picture, disc, found = scene()
    rough, _ = cutout.cut_out(picture, found, grab=False)
    fine, firm = cutout.cut_out(picture, found)
    assert cutout.agreement(rough, disc) < 0.9
    assert cutout.agreement(fine, disc) > 0.97
    assert firm > 0.8
    assert np.array_equal(fine, cutout.cut_out(picture, found)[0])


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("grab", [True, False])
def test_a_flat_map_gives_all_or_nothing(value: float, grab: bool) -> None:
    mask, _ = cutout.cut_out(scene()[0], np.full((12, 12), value, np.float32), grab)
    assert mask.mean() in (0, 1)


def test_specks_and_small_holes_go_and_large_ones_stay() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    mask[12:14, 12:14] = mask[20:40, 20:40] = False  # the second as large as that of a mug's handle
    mask[55:57, 55:57] = True
    clean = cutout.without_specks(mask)
    assert clean[12, 12] and not clean[30, 30] and not clean[55, 55]
    assert not cutout.without_specks(np.zeros((9, 9), bool)).any()


def test_where_adapters_change_a_picture(base: Base) -> None:
    """Adapters that change the right half of the prediction: only that is in the map, and they are off afterwards."""
    changed: list[bool] = []

    @contextmanager
    def on() -> Iterator[None]:
        def right_half(_: object, __: object, output: tuple[Tensor]) -> tuple[Tensor]:
            changed.append(True)
            output[0][..., output[0].shape[-1] // 2 :] += 1
            return output

        handle = base.unet.register_forward_hook(right_half)
        try:
            yield
        finally:
            handle.remove()

    pixels = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = change_map(base, pixels, ("a dog", "a dog"), on, seeds=2)
    assert found.shape == (8, 12)
    assert (found[:, :6] < 1e-3).all() and (found[:, 6:] > 0.99).all()
    assert len(changed) == 3
    same = change_map(base, pixels, ("a dog", "a dog"), nullcontext, seeds=1)
    assert not same.any()
