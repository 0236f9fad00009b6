"""Pictures as people have them: every oddity either becomes upright 8-bit RGB or a remark with a remedy."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from dreamtune.data.images import (
    FORMATS,
    MAX_PIXELS,
    UnusablePicture,
    decode,
    perceptual_hash,
    quiet,
    to_rgb,
    to_tensor,
)
from tests.data.mess import encoded, png_header

RED, BLUE = (200, 30, 30), (20, 40, 220)


def halves(width: int = 40, height: int = 24) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int) -> None:
    upright = halves()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that makes a stored picture of it
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(stored, exif=exif), ".png")
    assert picture.image.size == upright.size
    assert np.array_equal(np.asarray(picture.image), np.asarray(upright))


def test_alpha_goes_onto_white() -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 128), (0, 0, 10, 20))
    result = to_rgb(image)
    assert result.getpixel((15, 5)) == (255, 255, 255)
    assert result.getpixel((5, 5)) == pytest.approx((127, 127, 255), abs=1)


def test_palette_with_transparent_entry() -> None:
    image = halves().quantize(4)
    index = image.getpixel((0, 0))
    picture = decode(encoded(image, transparency=index), ".png")
    assert picture.image.getpixel((0, 0)) == (255, 255, 255)
    assert picture.image.getpixel((39, 0)) == pytest.approx(BLUE, abs=3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    picture = decode(encoded(Image.fromarray(values)), ".png")
    assert np.asarray(picture.image)[..., 0] == pytest.approx(values / 257.0, abs=0.51)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    result = to_rgb(halves().convert("L" if mode in ("I", "F") else "RGB").convert(mode))
    assert result.mode == "RGB"
    left, right = np.asarray(result)[:, 2], np.asarray(result)[:, -3]
    assert not np.array_equal(left, right), "the picture's content is lost"


@pytest.mark.parametrize(("top", "brightest"), [(1.0, 1.0), (1.0, 4.0), (255.0, 255.0), (65535.0, 65535.0)])
def test_floating_point_of_any_range_keeps_its_brightness(top: float, brightest: float) -> None:
    values = np.linspace(0, top, 400, dtype=np.float32).reshape(20, 20)
    values[0, 0] = brightest
    shown = np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), ".tif").image)[..., 0]
    expected = values.clip(0, top) * (255.0 / top)
    assert np.abs(shown - expected).max() <= 0.51


def test_floating_point_that_is_no_number_is_told() -> None:
    values = np.full((20, 20), np.nan, np.float32)
    with pytest.raises(UnusablePicture, match="contains NaN or infinity"):
        decode(encoded(Image.fromarray(values), "TIFF"), ".tif")


def test_first_frame_of_an_animation_with_a_note() -> None:
    frames = [Image.new("RGB", (20, 20), RED), Image.new("RGB", (20, 20), BLUE)]
    picture = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), ".gif")
    assert picture.image.getpixel((3, 3)) == RED
    assert "frame" in picture.notes[0][0]


def test_content_beats_the_extension() -> None:
    picture = decode(encoded(halves(), "PNG"), ".jpg")
    assert picture.notes[0][0] == "is a PNG despite its extension"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
        (b"not a picture at all", "not a readable image"),
        (encoded(halves(400, 300), "JPEG")[:700], "damaged"),
        (encoded(halves(400, 300), "PNG")[:90], "damaged"),
        (encoded(Image.new("RGB", (1, 1))), "1x1"),
        (encoded(Image.new("RGB", (3000, 2))), "3000x2"),
        (png_header(10_000, 10_000), "too large"),
        (png_header(60_000, 60_000), "too large"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "not a readable image"),
    ],
)
def test_unusable_pictures_say_why(data: bytes, problem: str) -> None:
    with quiet(), pytest.raises(UnusablePicture) as caught:
        decode(data, ".jpg")
    assert problem in caught.value.problem
    assert caught.value.remedy


def test_limit_is_below_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def test_tensor_range_and_layout() -> None:
    tensor = to_tensor(halves(4, 2))
    assert tensor.shape == (3, 2, 4)
    assert tensor.dtype == torch.float32
    assert tensor[:, 0, 0].tolist() == pytest.approx([channel / 127.5 - 1 for channel in RED])


def test_perceptual_hash_ignores_compression_but_not_content() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    again = decode(encoded(noise, "JPEG", quality=70), ".jpg").image
    assert (perceptual_hash(noise) ^ perceptual_hash(again)).bit_count() <= 2
    mirrored = noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert (perceptual_hash(noise) ^ perceptual_hash(mirrored)).bit_count() > 8


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_anywhere_is_reported_and_never_escapes(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    whole = encoded(halves(120, 80), kind)
    random = Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(random.choice([1, 3, 20])):
            damaged[random.randrange(random.choice([len(whole), min(len(whole), 150)]))] = random.randrange(256)
        damaged = damaged[: random.choice([len(whole), random.randrange(len(whole))])]
        try:
            with quiet():
                decode(bytes(damaged), "", random.choice([None, 64]))
        except UnusablePicture as error:
            refused += 1
            assert "\n" not in error.problem
    assert refused > 20
