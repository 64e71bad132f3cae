"""Crops lie within the picture, are spread as torchvision's, and depend on the sample alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from loaders import sizing
from loaders.order import Draws
from tests.loaders.sources import picture

SIDES = st.integers(1, 4000)
KEYS = st.builds(Draws, seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 1000), training=st.booleans())


@settings(max_examples=300)
@given(height=SIDES, width=SIDES, index=st.integers(0, 2**40), draws=KEYS)
def test_a_training_crop_lies_within_the_picture(height: int, width: int, index: int, draws: Draws) -> None:
    """Whatever a picture's size, its crop has at least a pixel, ends within it, and is the same each time."""
    top, left, crop_height, crop_width = sizing.box(height, width, index, draws)
    assert top >= 0
    assert left >= 0
    assert crop_height >= 1
    assert crop_width >= 1
    assert top + crop_height <= height
    assert left + crop_width <= width
    assert sizing.box(height, width, index, draws) == (top, left, crop_height, crop_width)


@settings(max_examples=300)
@given(height=SIDES, width=SIDES, size=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_an_evaluation_crop_lies_in_the_centre(height: int, width: int, size: tuple[int, int]) -> None:
    """The crop lies within the picture, as far from one edge as from the other."""
    top, left, crop_height, crop_width = sizing.centre(height, width, size)
    assert crop_height >= 1
    assert crop_width >= 1
    assert 0 <= height - crop_height - 2 * top <= 1
    assert 0 <= width - crop_width - 2 * left <= 1


def test_training_crops_are_spread_as_torchvision_s() -> None:
    """Area, ratio and place of the crops have the distributions of RandomResizedCrop."""
    height, width, count = 300, 400, 4000
    ours = np.array([sizing.box(height, width, index, Draws(0, 0, training=True)) for index in range(count)], float)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    params = [v2.RandomResizedCrop(224).make_params([image]) for _ in range(count)]
    theirs = np.array([[each[key] for key in ("top", "left", "height", "width")] for each in params], float)
    for measured in (_area, _ratio, lambda crops: crops[:, 0], lambda crops: crops[:, 1]):
        mine, reference = measured(ours), measured(theirs)
        quantiles = np.linspace(0.05, 0.95, 10)
        spread = reference.max() - reference.min()
        assert np.abs(np.quantile(mine, quantiles) - np.quantile(reference, quantiles)).max() < 0.05 * spread


def _area(crops: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return crops[:, 2] * crops[:, 3] / 120_000


def _ratio(crops: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.log(crops[:, 3] / crops[:, 2])


def test_crops_differ_by_sample_epoch_and_seed() -> None:
    """No two samples, epochs or seeds share their crops."""
    keys = [(index, Draws(seed, epoch, training=True)) for index in range(5) for seed in range(5) for epoch in range(5)]
    assert len({sizing.box(500, 500, index, draws) for index, draws in keys}) == len(keys)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 3), (7, 900)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_picture_fits(size: tuple[int, int], training: bool, channels: int) -> None:
    """A single pixel and a hair's breadth fill the batch's row too."""
    out = np.full((20, 24, channels), 7, np.uint8)
    sizing.fit(np.full((*size, channels), 200, np.uint8), 3, Draws(0, 0, training), out)
    assert (out == 200).all()


@pytest.mark.parametrize("size", [(120, 160), (300, 200), (131, 131), (500, 333)])
def test_evaluation_is_about_torchvision_s(size: tuple[int, int]) -> None:
    """The crop is where Resize and CenterCrop have it, within half a pixel, to which they round: 6 levels in the mean."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    found = np.empty((56, 56, 3), np.uint8)
    sizing.fit(smooth, 0, Draws(0, 0, training=False), found)
    reference = np.asarray(v2.Compose([v2.Resize(64), v2.CenterCrop(56)])(Image.fromarray(smooth))).astype(int)

    def difference(shift: tuple[int, int]) -> float:
        moved = np.roll(reference, shift, axis=(0, 1))
        return float(np.abs(found - moved)[2:-2, 2:-2].mean())

    assert difference((0, 0)) < 6
    assert all(difference((0, 0)) < difference(shift) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)))


def test_a_crop_is_pillow_s() -> None:
    """What is filled in is Pillow's antialiased bilinear resize of the crop, exactly."""
    pixels, draws = picture(np.random.default_rng(1), 90, 70, 3), Draws(4, 2, training=True)
    out = np.empty((32, 32, 3), np.uint8)
    sizing.fit(pixels, 5, draws, out)
    top, left, height, width = sizing.box(90, 70, 5, draws)
    crop = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    assert (out == np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR))).all()
