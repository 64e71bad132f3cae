"""The contract of a backend that owns its iteration: a ``Feed`` is told the order and hands over batches; engine ``native``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from loaders.order import Indices
from loaders.store import Handle, Reader, Sizes, Store

if TYPE_CHECKING:  # listing backends needs no torch
    from loaders.engine import Batch, Key, Plan

Promise = Literal["order", "pixels", "held"]
"""What a feed may be unable to promise:

- ``order``: batches come in the sampler's order.
- ``pixels``: pictures are those that the source's files decode to by Pillow, cropped by the project's own draws.
- ``held``: a batch stays whole when later ones are asked for.
"""

AUGMENTED = "they come cropped and mirrored: in mode load that is more work than the others do"


class FeedStore(Store):
    """A store whose format is read by its own library's loader. Its ``reader`` serves ``verify`` alone."""

    engines: ClassVar[tuple[str, ...]] = ("native",)

    @property
    def differences(self) -> Mapping[Promise, str]:
        """The promises that can't be kept for this content, each with why; shown in tables."""
        return {}

    @abstractmethod
    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> Feed:
        """A feed of one split; cheap: loaders and workers start at the first epoch.

        Args:
            split: ``train`` or ``val``.
            plan: batch size, seed, workers, and whether to shuffle and crop at random.
            shape: (height, width, channels) of every picture delivered.
        """


class Feed(ABC):
    """One split, delivered by a peer's own loader.

    Attributes:
        path_taken: the peer's way of loading, in words.
    """

    path_taken: ClassVar[str]

    def __init__(self, store: FeedStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        self.store, self.split, self.plan, self.shape = store, split, plan, shape
        self.content = store.content
        self._loader: Any = None

    @property
    def loader(self) -> Any:
        """The peer's loader, made at the first epoch and kept: its workers stay for the next ones."""
        if self._loader is None:
            self._loader = self._made()
        return self._loader

    @abstractmethod
    def _made(self) -> Any:
        """Make the peer's loader.

        Raises:
            StoreCorrupt: it refuses the store's files.
        """

    @abstractmethod
    def batches(self, asked: Key) -> Iterator[Batch]:
        """One epoch. May be left early; then nothing read ahead turns up in a later one.

        Args:
            asked: the epoch, which keys a shuffle of the feed's own, and the sampler's order: int64 (n,), what to deliver,
                each picture once. A feed that declares ``order`` has one of its own; one whose store is ``whole`` delivers
                the rest of the split too.

        Yields:
            Batches of up to ``plan.batch_size`` pictures, uint8 (B, C, H, W), labels int64, and true indices. Short ones
            may come amid an epoch (each of several workers ends with one): the engine puts them together.
        """

    def close(self) -> None:
        """Stop workers, and release files; the next epoch may start them again."""
        self._loader = None


def merged(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Whole batches as they come, then the short ones put together: as many batches as one reader would deliver."""
    short: list[Batch] = []
    for batch in batches:
        if len(batch.labels) == size:
            yield batch
        elif len(batch.labels):
            short.append(_own(batch))
    yield from _cut(short, size)


def _own(batch: Batch) -> Batch:
    """A batch kept until the end of an epoch must not lie in memory that its loader writes again."""
    return batch._replace(images=batch.images.clone(), labels=batch.labels.clone(), indices=batch.indices.copy())


def _cut(short: list[Batch], size: int) -> Iterator[Batch]:
    if len(short) < 2:
        yield from short
        return
    import torch

    images, labels = torch.cat([batch.images for batch in short]), torch.cat([batch.labels for batch in short])
    indices = np.concatenate([batch.indices for batch in short])
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        yield short[0]._replace(images=images[rows], labels=labels[rows], indices=indices[rows])


def chosen(batches: Iterable[Batch], order: Indices, count: int) -> Iterator[Batch]:
    """Of batches of a whole split of ``count`` pictures, what ``order`` asks for; short batches remain."""
    import torch

    if len(order) == count:
        yield from batches
        return
    wanted = np.zeros(count, dtype=bool)
    wanted[order] = True
    for batch in batches:
        rows = torch.from_numpy(np.flatnonzero(wanted[batch.indices]))
        yield batch._replace(images=batch.images[rows], labels=batch.labels[rows], indices=batch.indices[rows.numpy()])


class FeedReader(Reader[Handle]):
    """Reads a feed's files back one picture at a time, for ``verify``: never timed."""

    @property
    def sizes(self) -> Sizes:
        raise NotImplementedError("a feed sizes its pictures itself")

    @property
    def path_taken(self) -> str:
        return "read back one by one"
