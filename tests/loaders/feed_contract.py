"""The contract of a feed, as checks that any of them is put to: what it declares it can't promise must really differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil

from datasets.errors import LoadstoneError
from loaders import order
from loaders.feed import FeedStore
from loaders.loading import Loader, loader
from loaders.order import Draws
from loaders.pack import verify
from tests.loaders.contract import assert_equal
from tests.loaders.sources import SIDE, Expected

SEED, BATCH = 5, 8


@dataclass(frozen=True)
class FeedSubject:
    """A feed's store, and what it has to hand over.

    Attributes:
        workers: that it is read with.
    """

    store: FeedStore
    expected: Expected
    workers: int

    def load(self, split: str = "train", **options: Any) -> Loader:
        """The store's loader."""
        options = {"workers": self.workers} | options
        return loader(self.store, split, batch_size=BATCH, seed=SEED, image_size=SIDE, **options)


class Epoch(NamedTuple):
    """What one epoch delivered, copied out of its batches."""

    images: Any
    labels: Any
    indices: Any
    sizes: list[int]


def epoch(batches: Iterator[Any] | Loader) -> Epoch:
    """Deliver an epoch."""
    held = [
        (b.images.permute(0, 2, 3, 1).cpu().numpy().copy(), b.labels.cpu().numpy().copy(), b.indices.copy()) for b in batches
    ]
    images, labels, indices = (np.concatenate([batch[part] for batch in held]) for part in range(3))
    return Epoch(images, labels, indices, [len(batch[1]) for batch in held])


Check = Callable[[FeedSubject], None]
CHECKS: list[Check] = []


def _check(function: Check) -> Check:
    CHECKS.append(function)
    return function


@_check
def every_picture_comes_once_an_epoch(subject: FeedSubject) -> None:
    """Two epochs, both splits: every picture once, in batches of 8, 8 and 7, with its own label."""
    for split in ("train", "val"):
        wanted = subject.expected.labels[split]
        with subject.load(split) as batches:
            for number in (0, 1):
                found = epoch(batches)
                assert sorted(found.indices) == list(range(len(wanted))), f"{split}, epoch {number}: {sorted(found.indices)}"
                assert found.labels.dtype == np.int64, "labels have to be int64"
                assert_equal(found.labels, np.array(wanted)[found.indices], f"{split}, epoch {number}: labels")
                assert found.sizes == [len(part) for part in _cut(len(wanted))], f"{split}: batches of {found.sizes}"
            assert len(batches) == len(found.sizes), "len(loader) counts the batches that come"


def _cut(count: int) -> Sequence[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


@_check
def the_order_is_the_sampler_s_or_declared(subject: FeedSubject) -> None:
    """Epochs come in ``loaders.order``'s order; a feed that declares another has one, and shuffles anew each epoch."""
    with subject.load() as batches:
        found = [epoch(batches).indices.tolist() for _ in (0, 1)]
    exact = found == [order.order(23, SEED, number).tolist() for number in (0, 1)]
    assert exact != ("order" in subject.store.differences), f"order declared: {'order' in subject.store.differences}; {found}"
    assert found[0] != found[1], "the same order in two epochs"


@_check
def pixels_are_the_source_s_or_declared(subject: FeedSubject) -> None:
    """Pictures are uint8, channels-last, and those of the source; a feed that declares other ones has other ones."""
    with subject.load() as batches:
        for batch in batches:
            assert batch.images.dtype is not None
            assert batch.images.permute(0, 2, 3, 1).is_contiguous(), "channels-last strides are wanted"
        batches.set_epoch(0)
        found = epoch(batches)
    assert found.images.dtype == np.uint8, "pictures have to be uint8"
    wanted = subject.expected.batch("train", found.indices, Draws(SEED, 0, training=True))
    assert found.images.shape == wanted.shape, f"shape {found.images.shape}, not {wanted.shape}"
    if "pixels" in subject.store.differences:
        assert not np.array_equal(found.images, wanted), "declared as other pixels, but they are the source's"
        red, blue = found.images[..., 0].mean(), found.images[..., -1].mean()
        assert len(wanted.shape) == 4
        assert wanted.shape[3] == 1 or red > blue, "channels are not in the order RGB"
    else:
        assert_equal(found.images, wanted, "pictures")


@_check
def a_batch_held_stays_whole_or_declared(subject: FeedSubject) -> None:
    """What was delivered stays as it was when the epoch has gone on to its end."""
    if "held" in subject.store.differences:
        return
    with subject.load() as batches:
        kept = [(batch.images, batch.images.clone()) for batch in batches]
    assert all(bool((now == then).all()) for now, then in kept), "a batch was overwritten"


@_check
def an_epoch_left_early_leaves_nothing_behind(subject: FeedSubject) -> None:
    """After one batch of an epoch, the next epoch is whole."""
    with subject.load() as batches:
        next(iter(batches))
        found = epoch(batches)
    assert sorted(found.indices) == list(range(23)), "what was read ahead turned up in the next epoch, or was lost"


@_check
def a_part_is_the_same_part(subject: FeedSubject) -> None:
    """With a limit the pictures are those that every backend delivers, and no others."""
    with subject.load(limit=10) as batches:
        found = epoch(batches)
        assert len(batches) == len(found.sizes) == 2
    assert sorted(found.indices) == order.subset(23, 10).tolist()
    assert_equal(found.labels, np.array(subject.expected.labels["train"])[found.indices], "labels")


@_check
def closing_ends_its_processes(subject: FeedSubject) -> None:
    """No process outlives ``close``; closing twice is no error, and the next epoch opens it again."""
    before = set(psutil.Process().children(recursive=True))
    batches = subject.load()
    with contextlib.closing(batches):
        epoch(batches)
        batches.close()
        left = set(psutil.Process().children(recursive=True)) - before
        psutil.wait_procs(left, timeout=5)
        assert not [process for process in left if process.is_running()], "a worker outlived close()"
        batches.close()
        batches.set_epoch(0)
        assert sorted(epoch(batches).indices) == list(range(23)), "an epoch after close()"


@_check
def all_is_read_back(subject: FeedSubject) -> None:
    """``verify`` passes, and the path taken is named."""
    try:
        verify(subject.store)
    except LoadstoneError as error:
        raise AssertionError(f"verify() refuses a store that was just packed: {error}") from error
    with subject.load() as batches:
        assert batches.path_taken.strip()
