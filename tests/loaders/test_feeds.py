"""The feeds' contract suite on every feed of the registry, feeds broken on purpose, and pairs that can't be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from datasets.errors import DataError, Unavailable
from loaders import loader
from loaders.feed import Feed, FeedStore
from loaders.loading import Loader
from loaders.manifest import Content
from loaders.order import Indices
from loaders.pack import pack
from loaders.peers.torchvision import ImageFolderFeed, ImageFolderStore
from loaders.registry import BACKENDS, availability, store_class
from tests.loaders.conftest import Packed
from tests.loaders.feed_contract import CHECKS, Check, FeedSubject
from tests.loaders.sources import Expected, expected
from tests.loaders.test_contract import KINDS

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

NO_LOADERS = {"gpu_copy": "it copies a split whole, in one order for all epochs: tests/loaders/test_gpu_limits.py"}
"""Feed -> why the contract can't be asked of it."""
FEEDS = [
    name for name in BACKENDS if availability(name).ok and issubclass(store_class(name), FeedStore) and name not in NO_LOADERS
]
FEED_KINDS = {
    **{kind: KINDS[kind] for kind in ("raw", "raw-grey", "png", "jpeg", "raw-differing", "jpeg-differing")},
    "raw-cifar": expected("raw", size=(32, 32)),
}
IN_WORKERS = ("raw", "jpeg-differing", "raw-cifar")
"""Kinds that are read by workers too: starting them takes time, and what they do does not depend on more than these show."""


def subjects() -> Iterator[tuple[str, str, int]]:
    """Every feed that can run here with every kind of data set that it takes, and with 0 and 2 workers."""
    for name in FEEDS:
        for kind, wanted in FEED_KINDS.items():
            if not store_class(name).refuses(Content.of(wanted.source.info, wanted.codec)):
                yield from ((name, kind, workers) for workers in ((0, 2) if kind in IN_WORKERS else (0,)))


def subject_of(store: object, wanted: Expected, workers: int) -> FeedSubject:
    assert isinstance(store, FeedStore)
    return FeedSubject(store, wanted, workers)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "kind", "workers"), list(subjects()), ids=lambda part: str(part))
def test_feed_contract(name: str, kind: str, workers: int, check: Check, packed: Packed) -> None:
    """Every feed keeps every promise, or declares that it can't and really can't."""
    check(subject_of(packed(name, kind, FEED_KINDS[kind]), FEED_KINDS[kind], workers))


def test_feeds_that_need_no_package_are_always_tested() -> None:
    """torchvision is required: its two feeds are put to the suite on every machine."""  # noqa: D403
    assert {"imagefolder", "cifar10_torchvision"} <= {name for name, _, _ in subjects()}


class _Broken(Feed):
    """The batches of ``imagefolder``, with a fault."""

    path_taken = "broken"

    def __init__(self, store: FeedStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        super().__init__(store, split, plan, shape)
        self.sound = ImageFolderFeed(store, split, plan, shape)

    def _made(self) -> object:
        return None

    def batches(self, asked: Key) -> Iterator[Batch]:
        return self.spoilt(self.sound.batches(asked))

    def spoilt(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        raise NotImplementedError


class _LastBatchDropped(_Broken):
    def spoilt(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (batch for batch in batches if len(batch.labels) == 8)


class _LabelsShifted(_Broken):
    def spoilt(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (batch._replace(labels=(batch.labels + 1) % 3) for batch in batches)


class _OrderOfItsOwn(_Broken):
    def spoilt(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return iter(list(batches)[::-1])


class _OnePixelOff(_Broken):
    def spoilt(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            batch.images[0, 0, 3, 3] ^= 1
            yield batch


class _MemoryReused(_Broken):
    def spoilt(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            images = batch.images.contiguous(memory_format=torch.channels_last)  # which the engine hands on as they are
            yield batch._replace(images=images)
            images.zero_()


class _BeginsWhereItWasLeft(_Broken):
    def __init__(self, store: FeedStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        super().__init__(store, split, plan, shape)
        self.ahead: list[Batch] = []

    def batches(self, asked: Key) -> Iterator[Batch]:
        for more in ((), self.sound.batches(asked)):
            self.ahead += more
            while self.ahead:
                yield self.ahead.pop(0)


CAUGHT_BY: dict[type[_Broken], str] = {
    _LastBatchDropped: "every_picture_comes_once_an_epoch",
    _LabelsShifted: "every_picture_comes_once_an_epoch",
    _OrderOfItsOwn: "the_order_is_the_sampler_s_or_declared",
    _OnePixelOff: "pixels_are_the_source_s_or_declared",
    _MemoryReused: "a_batch_held_stays_whole_or_declared",
    _BeginsWhereItWasLeft: "an_epoch_left_early_leaves_nothing_behind",
}


@pytest.mark.parametrize(("kind", "name"), CAUGHT_BY.items(), ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_feed_is_caught(kind: type[_Broken], name: str, packed: Packed) -> None:
    """The check that is there for a fault finds it."""

    class BrokenStore(ImageFolderStore):
        def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> Feed:  # type: ignore[override]
            return kind(self, split, plan, shape)

    sound = packed("imagefolder", "raw", KINDS["raw"])
    subject = FeedSubject(BrokenStore(sound.root, sound.content), KINDS["raw"], 0)
    check = next(check for check in CHECKS if check.__name__ == name)
    with pytest.raises(AssertionError):
        check(subject)


@pytest.mark.parametrize("name", FEEDS)
def test_a_damaged_feed_is_said(name: str, tmp_path: Path) -> None:
    """A store whose files are gone is one of Loadstone's errors, for the feed and for reading back."""
    store = pack(FEED_KINDS["raw-cifar"].source, name, tmp_path)
    for file in store.root.rglob("*"):
        if file.is_file() and file.name != "manifest.json":
            file.unlink()
    with loader(store, batch_size=8) as batches, pytest.raises(DataError):
        next(iter(batches))
    with pytest.raises(DataError):
        store.reader("train").payloads(np.array([0]))


@pytest.mark.parametrize(("backend", "engine"), [("imagefolder", "torch"), ("mmap", "native")])
def test_an_engine_that_can_t_read_a_backend_is_refused(backend: str, engine: str, packed: Packed) -> None:
    """The reason names the engines that can."""
    store = packed(backend, "raw", KINDS["raw"])
    with pytest.raises(Unavailable, match=f"the engine {engine} can't read it; read it by engine"):
        loader(store, engine=engine)  # type: ignore[arg-type]


def test_what_a_format_can_t_hold_is_refused(tmp_path: Path) -> None:
    """torchvision's CIFAR10 has pictures of one size; another is no crash but a reason."""  # noqa: D403
    with pytest.raises(Unavailable, match="32 x 32"):
        pack(KINDS["raw"].source, "cifar10_torchvision", tmp_path)


def test_a_store_names_its_usual_engine(packed: Packed) -> None:
    """Without an engine named, a feed is read by ``native``, another store by ``torch``."""
    for backend, engine in (("imagefolder", "native"), ("mmap", "torch")):
        with loader(packed(backend, "raw", KINDS["raw"])) as batches:
            assert isinstance(batches, Loader)
            assert batches.plan.engine == engine


def test_short_batches_amid_an_epoch_are_put_together(packed: Packed) -> None:
    """Workers that each end with a short batch deliver as many batches as one reader would."""
    from loaders.engine import Batch
    from loaders.feed import merged

    def batch(*indices: int) -> Batch:
        column: Indices = np.array(indices, dtype=np.int64)
        return Batch(torch.from_numpy(column).view(-1, 1, 1, 1), torch.from_numpy(column), column)

    found = list(merged([batch(0, 1, 2), batch(3, 4), batch(5, 6, 7), batch(8, 9)], 3))
    assert [part.indices.tolist() for part in found] == [[0, 1, 2], [5, 6, 7], [3, 4, 8], [9]]
    assert all(part.images.flatten().tolist() == part.labels.tolist() == part.indices.tolist() for part in found)
