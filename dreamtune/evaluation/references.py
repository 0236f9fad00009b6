"""The real pictures of a subject, as training sees them."""

from __future__ import annotations

from PIL import Image

from dreamtune.data.encode import read_pixels
from dreamtune.data.subject import Subject


def reference_pictures(subject: Subject) -> list[Image.Image]:
    """Each photo cropped and sized as for training. Raises DatasetError if a file has changed since its check."""
    pictures = []
    for photo in subject.photos:
        pixels = read_pixels(photo).add(1).mul(127.5).round().byte()  # (3, h, w)
        pictures.append(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    return pictures
