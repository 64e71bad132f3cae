"""The two bounds of a GPU deliver what they say, by the same code with the process in the GPU's place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.errors import Unavailable
from loaders import loader
from loaders.manifest import Content
from loaders.peers.gpu_limits import PADDING, GpuArrayStore, GpuCopyStore
from loaders.registry import availability
from tests.loaders.conftest import Packed
from tests.loaders.fake_gpu import ProcessGpu
from tests.loaders.sources import expected

RAW = expected("raw")


class ProcessCopy(GpuCopyStore):
    """``gpu_copy`` on a GPU that is this process."""

    def gpu(self) -> ProcessGpu:
        return ProcessGpu()


class ProcessArray(GpuArrayStore):
    """``gpu_array`` likewise."""

    def gpu(self) -> ProcessGpu:
        return ProcessGpu()


def test_copies_are_of_every_picture(packed: Packed) -> None:
    """``gpu_copy`` delivers a split once, in the order in which it stands, with its labels."""
    sound = packed("mmap", "raw", RAW)
    with loader(ProcessCopy(sound.root, sound.content), batch_size=8, seed=2) as batches:
        for _ in range(2):
            found = list(batches)
            assert [len(batch.labels) for batch in found] == [8, 8, 7]
            assert [int(index) for batch in found for index in batch.indices] == list(range(23))
            images = torch.cat([batch.images for batch in found]).permute(0, 2, 3, 1).numpy()
            assert np.array_equal(images, np.stack(RAW.pictures["train"]))
            assert torch.cat([batch.labels for batch in found]).tolist() == RAW.labels["train"]


def test_a_part_of_a_split_is_not_copied(packed: Packed) -> None:
    """A part is not contiguous: gathering it would be another measurement."""
    sound = packed("mmap", "raw", RAW)
    with loader(ProcessCopy(sound.root, sound.content), batch_size=8, limit=9) as batches, pytest.raises(Unavailable):
        list(batches)


def test_the_array_delivers_crops_of_every_picture_in_order(packed: Packed) -> None:
    """Each picture of ``gpu_array`` is the one at its index, cut out of its frame somewhere, mirrored or not."""
    sound = packed("mmap", "raw", RAW)
    seen: set[tuple[int, int, bool]] = set()
    with loader(ProcessArray(sound.root, sound.content), batch_size=8, seed=2) as batches:
        for epoch in range(3):
            found = list(batches)
            indices = np.concatenate([batch.indices for batch in found])
            assert np.array_equal(indices, batches.order(epoch))
            assert torch.cat([batch.labels for batch in found]).tolist() == [RAW.labels["train"][at] for at in indices]
            images = torch.cat([batch.images for batch in found]).permute(0, 2, 3, 1).numpy()
            for image, at in zip(images, indices, strict=True):
                place = where(image, RAW.pictures["train"][at])
                assert place is not None
                seen.add(place)
    assert len({place[:2] for place in seen}) > 20
    assert {mirrored for _, _, mirrored in seen} == {True, False}


def where(image: np.ndarray, picture: np.ndarray) -> tuple[int, int, bool] | None:
    """(top, left, mirrored) at which ``image`` was cut out of the framed ``picture``."""
    height, width = picture.shape[:2]
    framed = np.pad(picture, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    for top in range(2 * PADDING + 1):
        for left in range(2 * PADDING + 1):
            cut = framed[top : top + height, left : left + width]
            for mirrored in (False, True):
                if np.array_equal(image, cut[:, ::-1] if mirrored else cut):
                    return top, left, mirrored
    return None


def test_evaluation_is_not_augmented(packed: Packed) -> None:
    """``val`` comes as it is stored."""
    sound = packed("mmap", "raw", RAW)
    with loader(ProcessArray(sound.root, sound.content), "val", batch_size=9) as batches:
        (batch,) = batches
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), np.stack(RAW.pictures["val"]))


@pytest.mark.parametrize("kind", [GpuCopyStore, GpuArrayStore])
def test_the_bounds_say_what_they_are(kind: type[GpuCopyStore], packed: Packed) -> None:
    """Neither passes for a loader: each declares what it does not promise, and what it can't hold."""
    sound = packed("mmap", "raw", RAW)
    assert kind(sound.root, sound.content).differences
    assert kind.refuses(Content.of(expected("jpeg").source.info, "jpeg"))
    if not torch.cuda.is_available():
        assert "no CUDA device" in availability(kind.name).reason
