"""From a map of where the subject is to a mask with the picture's own edges."""

from __future__ import annotations

import cv2
import numpy as np

SURE = 0.25
"""Shares of the way from the threshold to 0 and to 1 beyond which the map is trusted; GrabCut decides between."""
ROUNDS = 5
"""Of GrabCut; more change little."""
LEAST_SIDE = 192
"""Pixels of the shorter side on which edges are searched: smaller pictures are enlarged."""
WIDER = 0.6
"""Power of a map that reads it wider. How much masks change by it tells more of their error than other changes did."""
LEAST_PART = 0.1
"""Parts smaller than this share of the largest are specks."""


def cut_out(picture: np.ndarray, found: np.ndarray, grab: bool = True) -> tuple[np.ndarray, float]:
    """(h, w) bool mask of a picture (h, w, 3) uint8 RGB by a map (h', w') from 0 to 1, and how firm it is, 0 to 1.

    grab: by :func:`grab_cut`, else :func:`thresholded`. It is firm as far as a wider reading of the map gives the same:
    the intersection over union of both.
    """
    masks = [
        grab_cut(picture, it) if grab else thresholded(it, (picture.shape[1], picture.shape[0]))
        for it in (found, found**WIDER)
    ]
    return masks[0], agreement(masks[0], masks[1])


def threshold(found: np.ndarray) -> float:
    """Otsu's threshold of a map from 0 to 1: what is above it is the subject."""
    return cv2.threshold(_bytes(found), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255


def thresholded(found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: the map (h, w) enlarged to `size` (width, height) and cut at its threshold."""
    return _enlarged(found, size) > threshold(found)


def grab_cut(picture: np.ndarray, found: np.ndarray, background: float = SURE) -> np.ndarray:
    """(h, w) bool: where the subject is in a picture (h, w, 3) uint8 RGB, with its edges; found: (h', w') from 0 to 1.

    background: share of the threshold below which the map is trusted. GrabCut (Rother, Kolmogorov and Blake 2004)
    begins with the map: what it is sure of stays, and colors and edges decide the rest. Specks are left out. Where the
    map leaves it no subject or no background it is all or nothing.
    """
    height, width = picture.shape[:2]
    scale = max(1, -(-LEAST_SIDE // min(height, width)))
    size = (width * scale, height * scale)
    cut, large = threshold(found), _enlarged(found, size)
    seeds = np.where(large > cut, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[large < cut * background] = cv2.GC_BGD
    seeds[large > cut + (1 - cut) * SURE] = cv2.GC_FGD
    if not 0 < (seeds % 2).sum() < seeds.size:
        return thresholded(found, (width, height))
    colours = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), size, interpolation=cv2.INTER_CUBIC)
    cv2.setRNGSeed(0)  # of its k-means, which nothing else uses
    cv2.grabCut(colours, seeds, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    whole = without_specks(seeds % 2 == 1).astype(np.float32)
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA) > 0.5


def without_specks(mask: np.ndarray) -> np.ndarray:
    """The mask (h, w) bool without parts, and without holes, of less than LEAST_PART of its largest part."""
    kept = mask.astype(np.uint8)
    least = LEAST_PART * _areas(kept)[1].max(initial=0)
    for value in (1, 0):
        labels, areas = _areas(kept if value else 1 - kept)
        kept[np.isin(labels, np.flatnonzero(areas < least) + 1)] = 1 - value
    return kept == 1


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks (h, w) bool, 0 to 1."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def _areas(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the connected parts (h, w), from 1 on, and the pixels of each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    return labels, stats[1:, cv2.CC_STAT_AREA]


def _bytes(found: np.ndarray) -> np.ndarray:
    return (found * 255).round().astype(np.uint8)


def _enlarged(found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(found.astype(np.float32), size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
