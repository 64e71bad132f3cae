"""Reader and order to batches: ``loader(...)``, the one way in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.utils.data

from datasets.errors import LoadstoneError, UnknownName, UsageError
from loaders import order
from loaders.order import Draws, Indices
from loaders.pack import open_store
from loaders.store import Reader, Store

ENGINES = ("torch",)
FETCHES = ("item", "batch")


class Batch(NamedTuple):
    """Pictures and labels in the order asked for.

    Attributes:
        images: uint8 (B, C, H, W), channels-last strides: a view of the (B, H, W, C) that the reader filled.
        labels: int64 (B,).
        indices: int64 (B,), places in the split, from which per-sample draws are made.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: Indices


class Key(NamedTuple):
    """What a reader is asked for: ``indices`` is int64 (B,) in ``batch``, one number in ``item``."""

    epoch: int
    indices: Any


@dataclass(frozen=True)
class _Pictures(torch.utils.data.Dataset[Any]):
    """A reader as a PyTorch data set. An error is handed over as a value: DataLoader would lose its parts."""

    reader: Reader[Any]
    shape: tuple[int, int, int]
    seed: int
    training: bool

    def _read(self, epoch: int, indices: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        out = np.empty((len(indices), *self.shape), np.uint8)
        self.reader.read(indices, out, Draws(self.seed, epoch, self.training))
        return torch.from_numpy(out), torch.from_numpy(np.asarray(self.reader.labels[indices], dtype=np.int64))


class _ByBatch(_Pictures):
    """One call a batch."""

    def __getitem__(self, key: Key) -> Batch | LoadstoneError:
        try:
            images, labels = self._read(key.epoch, key.indices)
        except LoadstoneError as error:
            return error
        return Batch(images.permute(0, 3, 1, 2), labels, key.indices)


class _ByItem(_Pictures):
    """One call a sample, collated by PyTorch, as people write it."""

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int, int] | LoadstoneError:
        try:
            images, labels = self._read(key.epoch, np.array([key.indices]))
        except LoadstoneError as error:
            return error
        return images[0], int(labels[0]), int(key.indices)


def _as_it_is(batch: Any) -> Any:
    return batch


def _collate(items: Sequence[Any]) -> Batch | LoadstoneError:
    for item in items:
        if isinstance(item, LoadstoneError):
            return item
    images, labels, indices = torch.utils.data.default_collate(list(items))
    return Batch(images.permute(0, 3, 1, 2), labels, indices.numpy())


class Loader:
    """Batches of one split, epoch after epoch; made by ``loader(...)``.

    Iterate it as a ``DataLoader``: each iteration is the next epoch, with an order of its own; ``set_epoch`` names one.
    ``len`` is the number of batches, the last one, which may be smaller, included.
    """

    def __init__(self, reader: Reader[Any], plan: Plan) -> None:
        self.reader, self.plan = reader, plan
        self.epoch = 0
        self._subset = order.subset(len(reader), plan.limit)
        self._loader = self._torch_loader()

    def __len__(self) -> int:
        return -(-len(self._subset) // self.plan.batch_size)

    @property
    def images(self) -> int:
        """Pictures of an epoch."""
        return len(self._subset)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every picture delivered."""
        fixed = self.reader.content.shape
        size = self.plan.image_size
        return fixed if fixed is not None else (size, size, self.reader.content.channels)

    @property
    def path_taken(self) -> str:
        """The code path that serves the reads."""
        return self.reader.path_taken

    def order(self, epoch: int) -> Indices:
        """The order of an epoch: int64 (images,)."""
        if not self.plan.shuffle:
            return self._subset
        return self._subset[order.order(len(self._subset), self.plan.seed, epoch)]

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch; after ``torch.utils.data.DistributedSampler``."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, LoadstoneError):
                raise batch
            yield batch

    def next_epoch(self) -> Iterator[Key]:
        """What the next epoch asks for, batch by batch; the epoch after it is then next."""
        epoch = self.epoch
        self.epoch += 1
        indices = self.order(epoch)
        for start in range(0, len(indices), self.plan.batch_size):
            yield Key(epoch, indices[start : start + self.plan.batch_size])

    def _torch_loader(self) -> torch.utils.data.DataLoader[Any]:
        plan = self.plan
        by_item = plan.fetch == "item"
        pictures = (_ByItem if by_item else _ByBatch)(self.reader, self.shape, plan.seed, plan.training)
        keys = _Keys(self, by_item)
        return torch.utils.data.DataLoader(
            pictures,
            batch_size=1 if by_item else None,
            sampler=None if by_item else keys,
            batch_sampler=keys if by_item else None,
            collate_fn=_collate if by_item else _as_it_is,
            num_workers=plan.workers,
            persistent_workers=plan.workers > 0,
            multiprocessing_context="fork" if plan.workers else None,
            pin_memory=plan.pin_memory,
        )

    def close(self) -> None:
        """Stop the workers and release the reader's handles."""
        del self._loader
        self.reader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Keys(torch.utils.data.Sampler[Any]):
    """What DataLoader asks for: a key a batch, or a list of keys, one a sample."""

    def __init__(self, loader: Loader, by_item: bool) -> None:
        self._loader, self._by_item = loader, by_item

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for key in self._loader.next_epoch():
            yield [Key(key.epoch, index) for index in key.indices] if self._by_item else key


@dataclass(frozen=True)
class Plan:
    """How a split is read; see ``loader``."""

    batch_size: int
    seed: int
    shuffle: bool
    training: bool
    engine: str
    fetch: str
    workers: int
    limit: int | None
    image_size: int
    pin_memory: bool

    def __post_init__(self) -> None:
        for name in ("batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.engine not in ENGINES:
            raise UnknownName("engine", self.engine, ENGINES)
        if self.fetch not in FETCHES:
            raise UnknownName("fetch", self.fetch, FETCHES)


def loader(
    store: Store | Path | str,
    split: str = "train",
    *,
    batch_size: int = 128,
    seed: int = 0,
    shuffle: bool | None = None,
    training: bool | None = None,
    engine: Literal["torch"] = "torch",
    fetch: Literal["item", "batch"] = "batch",
    workers: int = 0,
    limit: int | None = None,
    image_size: int = 224,
    pin_memory: bool = False,
) -> Loader:
    """Batches of a store's split, in the one order that every backend and engine shares.

    Args:
        store: a store, or the folder of one.
        split: ``train`` or ``val``.
        batch_size: pictures of a batch; the last batch may hold fewer, and is delivered.
        seed: of order and draws.
        shuffle: another order each epoch; by default for ``train`` only.
        training: random-resized-crop rather than centre crop, where sizes differ; by default for ``train`` only.
        engine: what runs the reads.
        fetch: ``batch`` asks the reader for a batch, ``item`` for one sample at a time.
        workers: processes that read ahead; 0 reads when asked.
        limit: pictures of an epoch, the same ones each time; None is all.
        image_size: height and width delivered where sizes differ, in pixels.
        pin_memory: deliver in page-locked memory, for a GPU.

    Raises:
        UnknownName: a split, engine or fetch that is not there. UsageError: a size under 1. DataError: the store can't be used.
    """
    found = open_store(Path(store)) if isinstance(store, Path | str) else store
    if split not in found.content.counts:
        raise UnknownName("split", split, found.content.counts)
    default = split == "train"
    plan = Plan(
        batch_size=batch_size,
        seed=seed,
        shuffle=default if shuffle is None else shuffle,
        training=default if training is None else training,
        engine=engine,
        fetch=fetch,
        workers=workers,
        limit=limit,
        image_size=image_size,
        pin_memory=pin_memory,
    )
    return Loader(found.reader(split), plan)
