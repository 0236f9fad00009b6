"""Every picture gets the shape that cuts off least of it, and knows how it was cropped."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dreamtune.data.buckets import LONGEST, Framing
from dreamtune.models import load_base

SD1, SDXL, POCKET = Framing(512), Framing(1024, cell=8, step=32), Framing(48, cell=4, step=16)


@pytest.mark.parametrize("framing", [SD1, SDXL, POCKET, Framing(520)])
def test_shapes_keep_the_area_and_fit_the_unet(framing: Framing) -> None:
    square, *others = framing.sizes
    assert square == (framing.resolution,) * 2
    assert others
    for width, height in others:
        assert width % framing.step == height % framing.step == 0
        assert width * height <= framing.resolution**2
        assert max(width, height) <= LONGEST * min(width, height)
        assert (height, width) in others


def test_known_shapes() -> None:
    assert SD1.crop(4000, 3000).size == (576, 448)
    assert SD1.crop(1080, 1920).size == (384, 640)
    assert SD1.crop(768, 768).size == (512, 512)
    assert SDXL.crop(4000, 3000).size == (1184, 864)
    assert Framing(512, buckets=False).crop(4000, 3000).size == (512, 512)


def test_framing_of_a_base(tiny: Path) -> None:
    framing = Framing.of(load_base(str(tiny), device="cpu"), 32, True)
    assert (framing.cell, framing.step) == (4, 8), "the VAE halves twice, the UNet once"


@given(st.integers(16, 5000), st.integers(16, 5000), st.sampled_from([SD1, SDXL, POCKET]))
def test_no_shape_would_keep_more(width: int, height: int, framing: Framing) -> None:
    crop = framing.crop(width, height)
    left, top, right, bottom = crop.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    for size in framing.sizes:
        edge = min(width / size[0], height / size[1])
        share = edge * size[0] * edge * size[1] / (width * height)
        assert crop.kept >= share * 0.97 - 1e-9, "less than a rounded pixel is lost"


@pytest.mark.parametrize("size", [(40, 24), (24, 40), (100, 16), (32, 32)])
def test_the_crop_is_centred(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((20, 40, 220), (size[0] // 2 - 2, size[1] // 2 - 2, size[0] // 2 + 2, size[1] // 2 + 2))
    square = np.asarray(Framing(32, buckets=False).crop(*size).apply(image)).astype(int)
    assert square.shape == (32, 32, 3)
    rows, columns = np.nonzero(square[..., 2] - square[..., 0] > 0)
    assert rows.mean() == pytest.approx(15.5, abs=0.6)
    assert columns.mean() == pytest.approx(15.5, abs=0.6)


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(POCKET.crop(48, 48).apply(Image.fromarray(pixels))), pixels)


def test_a_smaller_copy_gives_nearly_the_same() -> None:
    image = Image.radial_gradient("L").resize((1600, 1200), Image.Resampling.BICUBIC).convert("RGB")
    crop = Framing(256, step=32).crop(1600, 1200)
    whole, half = (np.asarray(crop.apply(copy)).astype(int) for copy in (image, image.reduce(2)))
    assert np.abs(whole - half).max() <= 2


def test_time_ids_say_where_the_crop_was() -> None:
    crop = Framing(512, buckets=False).crop(2048, 1024)
    assert crop.time_ids().tolist() == [1024, 2048, 0, 256, 512, 512]
    assert SD1.crop(1023, 2047).time_ids(True).tolist()[2:4] == [round(171 * 640 / 1705), 0]
    odd = Framing(100, buckets=False).crop(203, 100)
    assert odd.box == (51, 0, 151, 100)
    assert odd.time_ids().tolist()[3] == 51
    assert odd.time_ids(mirrored=True).tolist()[3] == 52, "what was right of the crop is left of it in the mirror"
