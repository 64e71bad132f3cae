"""Crop and resize for pictures of differing sizes, per sample, before they form a batch.

Training: random-resized-crop. Evaluation: resize the shorter side, then centre crop. Boxes are pure functions of
(seed, epoch, index), so that every backend, worker and thread cuts the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from loaders.codec import Pixels
from loaders.order import Draw, Draws, Indices, uniform

# Random-resized-crop as torchvision has it: Szegedy et al. 2014, "Going deeper with convolutions", section 6.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
# 256 to 224: Krizhevsky et al. 2012, and the evaluation of torchvision's references.
EVALUATION_MARGIN = 256 / 224


Box = tuple[int, int, int, int]
"""(top, left, height, width), in a picture's own pixels."""


def box(height: int, width: int, index: int, draws: Draws) -> Box:
    """The random-resized-crop of one sample."""
    return boxes([(height, width)], np.array([index], dtype=np.int64), draws)[0]


def boxes(sizes: Sequence[tuple[int, int]], indices: Indices, draws: Draws) -> list[Box]:
    """The random-resized-crops of a batch; numbers are drawn for all of it at once, which a call for each costs most of.

    Source: torchvision.transforms.RandomResizedCrop.get_params, with numbers of our own.
    """
    found: dict[int, Box] = {}
    for attempt in range(TRIES):
        rows = [row for row in range(len(sizes)) if row not in found]
        if not rows:
            break
        draw = Draw.BOX + 4 * attempt
        numbers = [uniform(draws.seed, draws.epoch, indices[rows], draw + which).tolist() for which in range(4)]
        for row, *four in zip(rows, *numbers, strict=True):
            if (one := _attempt(*sizes[row], *four)) is not None:
                found[row] = one
    return [found[row] if row in found else _centre_within_ratio(*size) for row, size in enumerate(sizes)]


def _attempt(height: int, width: int, of_area: float, of_ratio: float, down: float, across: float) -> Box | None:
    """A box of numbers in [0, 1); None where it does not fit."""
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * of_area)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = math.exp(low + (high - low) * of_ratio)
    crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if not (0 < crop_width <= width and 0 < crop_height <= height):
        return None
    return int(down * (height - crop_height + 1)), int(across * (width - crop_width + 1)), crop_height, crop_width


def _centre_within_ratio(height: int, width: int) -> Box:
    crop_width = min(width, round(height * RATIO[1]))
    crop_height = min(height, round(width / RATIO[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def centre(height: int, width: int, size: tuple[int, int]) -> Box:
    """The evaluation crop, in source pixels: (top, left, height, width), the centre of the resized picture."""
    scale = min(height / size[0], width / size[1]) / EVALUATION_MARGIN
    crop_height, crop_width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def crops(sizes: Sequence[tuple[int, int]], indices: Indices, draws: Draws, size: tuple[int, int]) -> list[Box]:
    """What is cut out of each picture of a batch that is delivered at ``size``."""
    return boxes(sizes, indices, draws) if draws.training else [centre(*each, size) for each in sizes]


def divisor(crop: Box, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 that a picture may be divided by before it is cut, and be enlarged no more for it."""
    _, _, height, width = crop
    return next((part for part in (8, 4, 2) if height >= part * size[0] and width >= part * size[1]), 1)


def cut(picture: Pixels, crop: Box, out: Pixels, divided: int = 1) -> None:
    """Crop ``picture``, uint8 (h, w, C), and resize it (bilinear, antialiased, by Pillow) into ``out``, uint8 (H, W, C).

    ``crop`` is in pixels of the whole picture, of which ``picture`` is one ``divided``-th of the height and width.
    """
    top, left, h, w = crop
    size = (out.shape[1], out.shape[0])
    if divided == 1:
        picture = np.ascontiguousarray(picture[top : top + h, left : left + w])
    image = Image.fromarray(picture if out.shape[2] == 3 else picture[:, :, 0])
    if divided == 1:
        resized = image.resize(size, Image.Resampling.BILINEAR)
    else:
        corners = (left / divided, top / divided, (left + w) / divided, (top + h) / divided)
        resized = image.resize(size, Image.Resampling.BILINEAR, box=corners)
    np.copyto(out, np.asarray(resized).reshape(out.shape))


def fit(picture: Pixels, index: int, draws: Draws, out: Pixels) -> None:
    """Crop ``picture``, uint8 (h, w, C), as ``draws`` says, and resize it into ``out``, uint8 (H, W, C)."""
    sizes = [(picture.shape[0], picture.shape[1])]
    (crop,) = crops(sizes, np.array([index], dtype=np.int64), draws, (out.shape[0], out.shape[1]))
    cut(picture, crop, out)
