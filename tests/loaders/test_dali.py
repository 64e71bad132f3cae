"""``dali`` delivers the sampler's order, whole batches, and pixels as near to Pillow's as it declares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali", reason="the dali extra is not installed")

from datasets.errors import SampleCorrupt, Unavailable
from loaders import loader
from loaders.augment import Augment
from loaders.backends.dali import DaliGpuStore, DaliStore
from loaders.order import Draws
from loaders.pack import open_store, pack
from loaders.registry import availability
from loaders.store import Store
from tests.loaders.conftest import Packed
from tests.loaders.contract import in_child
from tests.loaders.sources import SIDE, Expected, expected
from train.augment import PadCropFlip

SIZED = {
    "raw": expected("raw"),
    "raw-grey": expected("raw", channels=1),
    "png": expected("png"),
    "jpeg": expected("jpeg"),
    "jpeg-grey": expected("jpeg", channels=1),
}
DIFFERING = {f"{codec}-differing": expected(codec, differing=True) for codec in ("raw", "png", "jpeg")}
COUNTS = {"train": 300, "val": 4}


def levels_apart(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far values are apart."""
    apart: np.ndarray = np.abs(found.astype(int) - wanted.astype(int))
    return apart


@pytest.mark.parametrize("kind", SIZED)
def test_pictures_of_one_size_are_pillow_s(kind: str, packed: Packed) -> None:
    """On a CPU DALI decodes exactly as every other backend does, in our order, epoch after epoch."""
    wanted = SIZED[kind]
    store = packed("dali", kind, wanted)
    assert isinstance(store, DaliStore)
    assert store.differences == {}
    with loader(store, batch_size=8, seed=5) as batches:
        for epoch in (0, 1):
            held = list(batches)
            assert [len(batch.labels) for batch in held] == [8, 8, 7]
            indices = np.concatenate([batch.indices for batch in held])
            assert np.array_equal(indices, batches.order(epoch))
            images = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in held])
            assert np.array_equal(images, wanted.batch("train", list(indices), Draws(5, epoch, training=True)))
            labels = np.concatenate([batch.labels.numpy() for batch in held])
            assert np.array_equal(labels, np.array(wanted.labels["train"])[indices])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", DIFFERING)
def test_crops_are_ours_and_resized_within_the_tolerance(kind: str, training: bool, packed: Packed) -> None:
    """The same boxes are cut; what DALI's filter makes of them is a few levels off, as the store declares."""
    wanted = DIFFERING[kind]
    store = packed("dali", kind, wanted)
    assert isinstance(store, DaliStore)
    assert "filter" in store.differences["pixels"]
    with loader(store, batch_size=8, seed=5, image_size=SIDE, training=training) as batches:
        batches.set_epoch(2)
        apart = np.concatenate(
            [
                levels_apart(
                    batch.images.permute(0, 2, 3, 1).numpy(), wanted.batch("train", list(batch.indices), Draws(5, 2, training))
                )
                for batch in batches
            ]
        )
    assert 0 < apart.max() <= 22
    assert (apart > 1).mean() < 0.01


AUGMENTS = {"": Augment((4, 2), (10, 200, 90)), "-grey": Augment((4, 2), (77,)), "-differing": Augment((0, 0), (0, 0, 0))}


def fused(store: Store) -> Store:
    """The store, its pictures augmented in the pipeline."""
    return open_store(store.root, path="fused")


def augment_of(kind: str) -> Augment:
    """What is done to pictures of a kind."""
    return next(augment for ending, augment in reversed(AUGMENTS.items()) if kind.endswith(ending))


@pytest.mark.parametrize("kind", [*SIZED, *DIFFERING])
def test_fused_augmentation_is_torch_s(kind: str, packed: Packed) -> None:
    """The pipeline crops, pads and mirrors as ``train.augment`` does, bit for bit, epoch after epoch."""
    store, augment = packed("dali", kind, (SIZED | DIFFERING)[kind]), augment_of(kind)
    shape = store.content.shape or (SIDE, SIDE)
    crop = PadCropFlip(augment, (shape[0], shape[1]), 5, torch.device("cpu"))
    with (
        loader(store, batch_size=8, seed=5, image_size=SIDE) as plain,
        loader(fused(store), batch_size=8, seed=5, image_size=SIDE, augment=augment) as batches,
    ):
        for epoch in (0, 1):
            for batch, bare in zip(batches, plain, strict=True):
                wanted = crop(bare.images, bare.indices, epoch)
                assert not torch.equal(batch.images, bare.images)
                assert torch.equal(batch.images, wanted)
        assert "augmented in the pipeline" in batches.path_taken
        assert "augmented" not in plain.path_taken


def test_fused_leaves_validation_alone(packed: Packed) -> None:
    """Pictures that are not for training come as they are, whatever is asked for."""
    store = packed("dali", "raw", SIZED["raw"])
    with loader(fused(store), "val", batch_size=8, seed=5, augment=AUGMENTS[""]) as batches:
        images = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in batches])
    assert np.array_equal(images, SIZED["raw"].batch("val", range(len(images)), Draws(5, 0, training=False)))


def test_batches_held_stay_whole(packed: Packed) -> None:
    """A slot that is filled again too soon would change batches on their way: none of 75 has."""
    wanted = expected("raw", name="many", counts=COUNTS)
    with loader(packed("dali", "many", wanted), batch_size=4, seed=1) as batches:
        held = list(batches)
    for batch in held:
        at = [int(index) for index in batch.indices]
        images = batch.images.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(images, wanted.batch("train", at, Draws(1, 0, training=True)))


@pytest.mark.parametrize("limit", [1, 8, 9])
def test_short_epochs_come_whole(limit: int, packed: Packed) -> None:
    """An epoch of one batch or two is delivered, and the next one too: the pipeline wants two before it starts."""
    with loader(packed("dali", "raw", SIZED["raw"]), batch_size=8, seed=5, limit=limit) as batches:
        for epoch in (0, 1):
            assert [index for batch in batches for index in batch.indices] == list(batches.order(epoch))


def test_an_epoch_left_early_leaves_nothing_behind(packed: Packed) -> None:
    """What the pipeline had ahead turns up in no later epoch."""
    with loader(packed("dali", "png", SIZED["png"]), batch_size=4, seed=5) as batches:
        epoch = iter(batches)
        next(epoch)
        epoch.close()  # type: ignore[attr-defined]
        batches.set_epoch(3)
        for batch in batches:
            at = [int(index) for index in batch.indices]
            images = batch.images.permute(0, 2, 3, 1).numpy()
            assert np.array_equal(images, SIZED["png"].batch("train", at, Draws(5, 3, training=True)))


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    """DALI says which batch it can't decode; the error says which sample."""
    wanted: Expected = SIZED["jpeg"]
    store = pack(wanted.source, "dali", tmp_path, codec="jpeg")
    file = store.root / "train.bin"
    data = bytearray(file.read_bytes())
    start = data.index(wanted.payloads["train"][5])
    data[start : start + len(wanted.payloads["train"][5])] = bytes(len(wanted.payloads["train"][5]))
    file.write_bytes(data)
    with loader(store, batch_size=4, shuffle=False) as batches, pytest.raises(SampleCorrupt, match="sample 5 of train"):
        list(batches)


def test_a_forked_child_is_refused(packed: Packed) -> None:
    """DALI's threads are not in the child, which would wait for them for ever: it gets an error instead."""
    store = packed("dali", "raw", SIZED["raw"])
    with loader(store, batch_size=8) as batches:
        list(batches)

    def read() -> None:
        with pytest.raises(Unavailable, match="before this process was forked"), loader(store, batch_size=8) as mine:
            list(mine)

    assert in_child(read)


def test_a_gpu_s_decoder_never_passes_for_libjpeg_s(packed: Packed) -> None:
    """Of JPEG files ``dali_gpu`` declares other pixels; without a GPU its row says so."""
    held = packed("dali", "jpeg", SIZED["jpeg"])
    assert "nvJPEG" in DaliGpuStore(held.root, held.content).differences["pixels"]
    if not availability("gpu_mmap").ok:
        assert "no CUDA device" in availability("dali_gpu").reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["jpeg", "jpeg-grey"])
def test_a_gpu_s_decoder_is_within_its_tolerance(kind: str, packed: Packed) -> None:
    """Batches are born on the GPU in our order, and nvJPEG's pixels are as near to libjpeg's as the store declares."""
    wanted = SIZED[kind]
    held = packed("dali", kind, wanted)
    with loader(DaliGpuStore(held.root, held.content), batch_size=8, seed=5) as batches:
        came = list(batches)
    assert all(batch.images.is_cuda for batch in came)
    indices = np.concatenate([batch.indices for batch in came])
    assert np.array_equal(indices, batches.order(0))
    images = np.concatenate([batch.images.permute(0, 2, 3, 1).cpu().numpy() for batch in came])
    apart = levels_apart(images, wanted.batch("train", list(indices), Draws(5, 0, training=True)))
    assert apart.max() <= 16
    assert (apart > 3).mean() <= 0.01


def test_the_file_reader_delivers_every_picture_in_an_order_of_its_own(packed: Packed) -> None:
    """``dali_files`` delivers each picture once an epoch, its label and pixels being those of its index, shuffled anew."""
    wanted = expected("jpeg", name="files", counts={"train": 50, "val": 4})
    with loader(packed("dali_files", "files", wanted), batch_size=8, seed=1) as batches:
        epochs = []
        for _ in range(3):
            held = list(batches)
            assert [len(batch.labels) for batch in held] == [8, 8, 8, 8, 8, 8, 2]
            indices = np.concatenate([batch.indices for batch in held])
            images = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in held])
            assert np.array_equal(images, np.stack([wanted.pictures["train"][index] for index in indices]))
            assert [int(label) for batch in held for label in batch.labels] == [wanted.labels["train"][at] for at in indices]
            assert sorted(indices) == list(range(50))
            epochs.append(list(indices))
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(range(50)) not in epochs
