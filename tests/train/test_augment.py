"""Crops, flips and normalisation of a batch are what a slow reading of their definition gives, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loaders.augment import Augment
from loaders.order import Draw, Indices, uniform
from train.augment import Normaliser, PadCropFlip, mean_level

SIZES = [(32, 32), (12, 20)]
SEED, EPOCH = 11, 3
CPU = torch.device("cpu")


def pictures(count: int, size: tuple[int, int], channels: int) -> torch.Tensor:
    generator = np.random.default_rng(5)
    return torch.from_numpy(generator.integers(0, 256, (count, *size, channels), dtype=np.uint8)).permute(0, 3, 1, 2)


def augmented(images: torch.Tensor, indices: Indices, padding: tuple[int, int], *, epoch: int = EPOCH) -> torch.Tensor:
    fill = torch.arange(100, 100 + images.shape[1], dtype=torch.uint8)
    asked = Augment(padding, tuple(fill.tolist()))
    return PadCropFlip(asked, (images.shape[2], images.shape[3]), SEED, CPU)(images, indices, epoch)


def one_at_a_time(images: torch.Tensor, indices: Indices, padding: tuple[int, int]) -> torch.Tensor:
    out = images.clone()
    _, channels, height, width = images.shape
    for place, index in enumerate(indices):
        one = np.array([index])
        top = int(uniform(SEED, EPOCH, one, Draw.CROP_TOP)[0] * (2 * padding[0] + 1)) - padding[0]
        left = int(uniform(SEED, EPOCH, one, Draw.CROP_LEFT)[0] * (2 * padding[1] + 1)) - padding[1]
        mirrored = uniform(SEED, EPOCH, one, Draw.FLIP)[0] >= 0.5
        for row in range(height):
            for column in range(width):
                y, x = row + top, (width - 1 - column if mirrored else column) + left
                inside = 0 <= y < height and 0 <= x < width
                for channel in range(channels):
                    out[place, channel, row, column] = images[place, channel, y, x] if inside else 100 + channel
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [(4, 4), (1, 2), (0, 0), (0, 3)])
def test_a_batch_is_augmented_as_its_samples_are_one_by_one(padding: tuple[int, int], channels: int) -> None:
    """Padding, cropping and mirroring at once equal a loop over samples, rows, columns and channels."""
    images, indices = pictures(8, (10, 14), channels), np.array([5, 0, 77, 5, 123_456_789, 2, 3, 4])
    assert torch.equal(augmented(images, indices, padding), one_at_a_time(images, indices, padding))


@pytest.mark.parametrize("padding", [(4, 4), (0, 0)])
def test_batches_do_not_matter(padding: tuple[int, int]) -> None:
    """A sample is cropped and mirrored alike in whatever batch and place it comes."""
    images, indices = pictures(30, (32, 32), 3), np.arange(100, 130)
    whole = augmented(images, indices, padding)
    parts = [augmented(images[at], indices[at], padding) for at in (slice(0, 7), slice(7, 8), slice(8, 30))]
    assert torch.equal(whole, torch.cat(parts))
    backwards = augmented(images.flip(0), indices[::-1].copy(), padding)
    assert torch.equal(whole, backwards.flip(0))


def test_every_epoch_draws_anew() -> None:
    """The same samples are cropped elsewhere in the next epoch, and alike when the epoch is run again."""
    images, indices = pictures(30, (32, 32), 3), np.arange(30)
    assert torch.equal(augmented(images, indices, (4, 4)), augmented(images, indices, (4, 4)))
    assert not torch.equal(augmented(images, indices, (4, 4)), augmented(images, indices, (4, 4), epoch=EPOCH + 1))


def test_every_place_and_both_sides_are_drawn() -> None:
    """Of a few thousand samples, each of the 81 places and both directions come up."""
    image = torch.arange(11 * 11, dtype=torch.uint8).view(1, 1, 11, 11).expand(4000, 1, 11, 11)
    centres = augmented(image, np.arange(4000), (4, 4))[:, 0, 5, 5:7]
    assert len(torch.unique(centres[:, 0])) == 81
    assert 1900 < int((centres[:, 1] < centres[:, 0]).sum()) < 2100


def test_without_flip_nothing_is_mirrored() -> None:
    """A protocol that does not mirror gets its pictures as they are."""
    images = pictures(20, (8, 8), 3)
    asked = Augment((0, 0), (0, 0, 0), flip=False)
    same = PadCropFlip(asked, (8, 8), SEED, CPU)(images, np.arange(20), EPOCH)
    assert torch.equal(same, images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", [(4, 4), (0, 0)])
def test_what_the_model_gets_is_channels_last(padding: tuple[int, int], size: tuple[int, int], channels: int) -> None:
    """Float32 in the layout that convolutions are fastest in, and the batch's own bytes untouched."""
    images = pictures(5, size, channels)
    before = images.clone()
    half = (0.5,) * channels
    out = Normaliser(half, half, CPU)(augmented(images, np.arange(5), padding))
    assert out.dtype == torch.float32
    assert out.shape == images.shape
    assert out.stride() == images.stride()
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_is_its_formula(channels: int) -> None:
    """Each level becomes (level / 255 - mean) / std of its channel, as float64 has it, to float32's precision."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, channels).permute(0, 3, 1, 2)
    mean, std = np.array([0.485, 0.456, 0.406])[:channels], np.array([0.229, 0.224, 0.225])[:channels]
    expected = (images.numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    got = Normaliser(mean.tolist(), std.tolist(), CPU)(images)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-6)


def test_padding_is_zero_after_normalisation() -> None:
    """The colour that crops are padded with is the mean's, within half a level: He's zero after mean subtraction."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    level = torch.tensor(mean_level(mean), dtype=torch.uint8).view(1, 3, 1, 1)
    assert Normaliser(mean, std, CPU)(level).abs().max() <= 0.5 / 255 / 0.224 + 1e-6
