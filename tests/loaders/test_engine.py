"""Batches come in the one order, epoch after epoch, and errors reach whoever asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pytest
import torch

import loaders
from datasets.errors import SampleCorrupt, StoreMissing, UnknownName, UsageError
from loaders import loader, order
from loaders.augment import Augment
from loaders.backends.filesystem import FilesystemStore
from loaders.backends.mmap import MmapReader
from loaders.codec import Pixels
from loaders.engine import Batch
from loaders.loading import Loader
from loaders.order import Draws, Indices
from loaders.pack import pack
from loaders.store import Store
from tests.loaders.sources import SIDE, expected

RAW = expected("raw")
PHOTOS = expected("jpeg", differing=True)
Fetch = Literal["item", "batch"]
EVERY_WAY = pytest.mark.parametrize(("fetch", "workers"), [("item", 0), ("item", 2), ("batch", 0), ("batch", 2)])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """23 pictures of 12 x 10 pixels to train on."""
    return pack(RAW.source, "mmap", tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """23 pictures of differing sizes."""
    return pack(PHOTOS.source, "mmap", tmp_path_factory.mktemp("photos"))


def indices_of(batches: Iterator[Batch] | Loader) -> list[int]:
    """The places of an epoch's samples, in the order they came in."""
    return [int(index) for batch in batches for index in batch.indices]


def wanted(epoch: int, seed: int = 0) -> list[int]:
    return [int(index) for index in order.order(23, seed, epoch)]


@pytest.mark.parametrize(("size", "lengths"), [(8, [8, 8, 7]), (23, [23]), (100, [23]), (1, [1] * 23)])
def test_length_counts_the_last_batch(store: Store, size: int, lengths: list[int]) -> None:
    """``len`` is the number of batches that come, the last and smaller one included."""
    with loader(store, batch_size=size) as batches:
        assert len(batches) == len(lengths)
        assert [len(batch.labels) for batch in batches] == lengths
        assert batches.images == 23


@EVERY_WAY
def test_each_iteration_is_the_next_epoch(store: Store, fetch: Fetch, workers: int) -> None:
    """Epochs follow each other by themselves; ``set_epoch`` names one, and the one after it comes next."""
    with loader(store, batch_size=8, fetch=fetch, workers=workers) as batches:
        assert indices_of(batches) == wanted(0)
        assert indices_of(batches) == wanted(1)
        batches.set_epoch(7)
        assert indices_of(batches) == wanted(7)
        assert indices_of(batches) == wanted(8)
        batches.set_epoch(0)
        assert indices_of(batches) == wanted(0)


@EVERY_WAY
def test_an_epoch_left_early_is_over(store: Store, fetch: Fetch, workers: int) -> None:
    """Leaving in mid-epoch starts the next one afresh: nothing that was read ahead turns up in it."""
    with loader(store, batch_size=4, fetch=fetch, workers=workers) as batches:
        for epoch in range(3):
            for batch in batches:
                assert batch.indices.tolist() == wanted(epoch)[:4]
                break
        assert indices_of(batches) == wanted(3)


def test_the_order_is_the_one_of_the_project(store: Store) -> None:
    """``Loader.order`` says what will come: loaders.order's, by seed and epoch; for ``val`` the source's own."""
    with loader(store, seed=9) as batches:
        assert batches.order(4).tolist() == wanted(4, seed=9)
    with loader(store, "val", batch_size=4) as batches:
        assert batches.order(4).tolist() == list(range(9))
        assert indices_of(batches) == list(range(9))
    with loader(store, "val", shuffle=True) as batches:
        assert batches.order(0).tolist() == order.order(9, 0, 0).tolist()


def test_seeds_have_orders_of_their_own(store: Store) -> None:
    """Another seed, another order."""
    orders = []
    for seed in range(4):
        with loader(store, seed=seed) as batches:
            orders.append(tuple(indices_of(batches)))
    assert len(set(orders)) == 4


def test_a_limit_takes_the_same_pictures_each_run(store: Store) -> None:
    """``limit`` cuts every run and every seed down to the same pictures, in an order that still differs by epoch."""
    chosen = order.subset(23, 10).tolist()
    for seed in (0, 1):
        with loader(store, batch_size=4, limit=10, seed=seed) as batches:
            first, second = indices_of(batches), indices_of(batches)
            assert (batches.images, len(batches)) == (10, 3)
        assert sorted(first) == sorted(second) == chosen
        assert first != second
    with loader(store, limit=99) as batches:
        assert sorted(indices_of(batches)) == list(range(23))


@EVERY_WAY
def test_batches_are_channels_last_views(store: Store, fetch: Fetch, workers: int) -> None:
    """Images are uint8 (B, C, H, W) with channels-last strides, labels int64 tensors, indices int64 arrays."""
    with loader(store, batch_size=8, fetch=fetch, workers=workers) as batches:
        batch = next(iter(batches))
    assert batch.images.shape == (8, 3, 12, 10)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [RAW.labels["train"][index] for index in wanted(0)[:8]]
    assert isinstance(batch.indices, np.ndarray)
    assert batch.indices.dtype == np.int64


def test_a_batch_is_not_copied(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensor is the very memory that the reader filled."""
    filled: list[int] = []
    read = MmapReader.read

    def watched(self: MmapReader, indices: Indices, out: Pixels, draws: Draws) -> None:
        filled.append(out.ctypes.data)
        read(self, indices, out, draws)

    monkeypatch.setattr(MmapReader, "read", watched)
    with loader(store, batch_size=8) as batches:
        kept = list(batches)
    assert [batch.images.data_ptr() for batch in kept] == filled
    assert len(set(filled)) == 3


@pytest.mark.parametrize(("split", "training"), [("train", True), ("val", False)])
def test_only_training_crops_at_random(photos: Store, split: str, training: bool) -> None:
    """Where sizes differ, ``train`` is cropped by draws of each epoch, ``val`` in the centre; either can be asked for."""
    with loader(photos, split, batch_size=50, shuffle=False, image_size=SIDE) as batches:
        epochs = [next(iter(batches)).images.permute(0, 2, 3, 1).numpy() for _ in range(2)]
        assert batches.shape == (SIDE, SIDE, 3)
    assert (epochs[0] == epochs[1]).all() != training
    with loader(photos, split, batch_size=50, shuffle=False, training=not training, image_size=SIDE) as batches:
        other = next(iter(batches)).images.permute(0, 2, 3, 1).numpy()
    indices = list(range(len(other)))
    assert (epochs[1] == PHOTOS.batch(split, indices, Draws(0, 1, training))).all()
    assert (other == PHOTOS.batch(split, indices, Draws(0, 0, not training))).all()


@EVERY_WAY
def test_a_corrupt_sample_reaches_the_consumer(fetch: Fetch, workers: int, tmp_path: Path) -> None:
    """An error that a worker met is raised where batches are asked for, with its parts; those before it were delivered."""
    store = pack(PHOTOS.source, "filesystem", tmp_path)
    assert isinstance(store, FilesystemStore)
    (store.root / "train" / store.relative(PHOTOS.labels["train"][13], 13)).write_bytes(b"no picture")
    with loader(store, batch_size=4, shuffle=False, fetch=fetch, workers=workers, image_size=SIDE) as batches:
        came = iter(batches)
        assert indices_of(next(came) for _ in range(3)) == list(range(12))
        with pytest.raises(SampleCorrupt, match="sample 13 of train") as caught:
            next(came)
    assert (caught.value.index, caught.value.split, caught.value.root) == (13, "train", store.root)


@pytest.mark.parametrize(
    ("options", "nearest"), [({"split": "tain"}, "train"), ({"engine": "troch"}, "torch"), ({"fetch": "batches"}, "batch")]
)
def test_an_unknown_name_gets_the_nearest(store: Store, options: dict[str, Any], nearest: str) -> None:
    """A split, engine or fetch that is not there is refused at once."""
    with pytest.raises(UnknownName) as caught:
        loader(store, **options)
    assert caught.value.nearest == nearest


@pytest.mark.parametrize("option", ["batch_size", "image_size"])
def test_a_size_under_one_is_refused(store: Store, option: str) -> None:
    """A batch or picture of no size is a mistake of the call, and is called one."""
    with pytest.raises(UsageError, match=option):
        loader(store, **{option: 0})  # type: ignore[arg-type]


def test_augmentation_is_left_to_the_training(store: Store) -> None:
    """A store that does not crop and mirror says so, rather than deliver pictures as they are."""
    with pytest.raises(UsageError, match="mmap leaves cropping and mirroring to the training"):
        loader(store, augment=Augment((4, 4), (0, 0, 0)))


def test_a_store_is_named_by_its_folder(store: Store) -> None:
    """A path, as Path or text, is opened; one that holds no store is an error."""
    for place in (store.root, str(store.root)):
        with loader(place) as batches:
            assert batches.images == 23
    with pytest.raises(StoreMissing):
        loader(store.root / "nothing")


def test_workers_end_with_the_loader(store: Store) -> None:
    """Closing a loader leaves no process behind, also in mid-epoch."""
    before = {child.pid for child in psutil.Process().children()}
    with loader(store, batch_size=2, workers=2) as batches:
        for _ in batches:
            break
        assert {child.pid for child in psutil.Process().children()} - before
    assert not {child.pid for child in psutil.Process().children()} - before


def test_the_path_taken_is_the_reader_s(store: Store) -> None:
    """A loader says which code path serves it."""
    with loader(store) as batches:
        assert batches.path_taken.startswith("np.take of the mapping")


def test_the_package_offers_its_names() -> None:
    """``loaders.loader`` is the one way in; other names are refused."""
    assert loaders.Batch is Batch
    assert loaders.Loader is Loader
    with pytest.raises(AttributeError):
        loaders.nothing  # noqa: B018
