"""Draws and crops by operations of torch are those of NumPy, bit for bit; on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loaders import tensor_augment
from loaders.augment import Augment
from loaders.order import Draw, uniform
from loaders.tensor_augment import Cutter, Drawer

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
]


@given(
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 2**40),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=9),
    padding=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    flip=st.booleans(),
)
def test_draws_are_the_same_bits(seed: int, epoch: int, indices: list[int], padding: tuple[int, int], flip: bool) -> None:
    """For every seed, epoch and index, and each is what ``uniform`` gives by itself."""
    augment, asked = Augment(padding, (0,), flip), np.array(indices)
    wanted = augment.draw(asked, seed, epoch)
    found = Drawer(augment, torch.device("cpu"))(torch.from_numpy(asked), seed, epoch)
    assert np.array_equal(found.numpy(), wanted)
    one_by_one = [uniform(seed, epoch, asked, draw) for draw in (Draw.CROP_TOP, Draw.CROP_LEFT, Draw.FLIP)]
    for row, (numbers, side) in enumerate(zip(one_by_one, augment.sides, strict=True)):
        assert np.array_equal(wanted[row], (numbers * side).astype(np.int64))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("padding", [(4, 4), (1, 2), (0, 0), (0, 3)])
def test_crops_are_those_of_a_frame(padding: tuple[int, int], wide: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture is cut out of its frame where its draws say, by indices of either width, on either device."""
    if wide:
        monkeypatch.setattr(tensor_augment, "_INT32_PIXELS", 0)
    augment, where = Augment(padding, (50, 60, 70)), torch.device(device)
    images = np.random.default_rng(1).integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    indices = np.arange(40)
    drawn = Drawer(augment, where)(torch.from_numpy(indices).to(where), 3, 1)
    assert np.array_equal(drawn.cpu().numpy(), augment.draw(indices, 3, 1))
    cutter = Cutter(augment, (12, 10), where)
    for part in (slice(0, 7), slice(7, 40)):
        found = cutter(torch.from_numpy(images[part]).to(where), drawn[:, part]).cpu().numpy()
        for image, picture, (top, left, mirrored) in zip(found, images[part], drawn[:, part].cpu().T.tolist(), strict=True):
            framed = np.empty((12 + 2 * padding[0], 10 + 2 * padding[1], 3), np.uint8)
            framed[:] = (50, 60, 70)
            framed[padding[0] : padding[0] + 12, padding[1] : padding[1] + 10] = picture
            cut = framed[top : top + 12, left : left + 10]
            assert np.array_equal(image, cut[:, ::-1] if mirrored else cut)
