"""``loader(...)``: the one way in, from a store to batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets.errors import UnknownName
from loaders import order
from loaders.engine import Batch, Key, Plan, engine_class
from loaders.order import Indices
from loaders.pack import open_store
from loaders.registry import check_engine
from loaders.store import Reader, Store


class Loader:
    """Batches of one split, epoch after epoch; made by ``loader(...)``.

    Iterate it as a ``DataLoader``: each iteration is the next epoch, with an order of its own; ``set_epoch`` names one.
    ``len`` is the number of batches, the last one, which may be smaller, included.
    """

    def __init__(self, reader: Reader[Any], plan: Plan) -> None:
        self.reader, self.plan = reader, plan
        self.epoch = 0
        self._subset = order.subset(len(reader), plan.limit)
        self._engine = engine_class(plan.engine)(reader, self.shape, plan)

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
        return self._engine.path_taken

    def order(self, epoch: int) -> Indices:
        """The order of an epoch: int64 (images,)."""
        if not self.plan.shuffle:
            return self._subset
        return self._subset[order.order(len(self._subset), self.plan.seed, epoch)]

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch; after ``torch.utils.data.DistributedSampler``."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self.epoch += 1
        return self._engine.epoch(self._keys(epoch))

    def _keys(self, epoch: int) -> Iterator[Key]:
        indices = self.order(epoch)
        for start in range(0, len(indices), self.plan.batch_size):
            yield Key(epoch, indices[start : start + self.plan.batch_size])

    def close(self) -> None:
        """Stop what reads ahead, and release the reader's handles."""
        self._engine.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def loader(
    store: Store | Path | str,
    split: str = "train",
    *,
    batch_size: int = 128,
    seed: int = 0,
    shuffle: bool | None = None,
    training: bool | None = None,
    engine: Literal["torch", "native", "stream"] | None = None,
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
        engine: what runs the reads; by default the store's usual one.
        fetch: ``batch`` asks the reader for a batch, ``item`` for one sample at a time.
        workers: processes that read ahead; 0 reads when asked.
        limit: pictures of an epoch, the same ones each time; None is all.
        image_size: height and width delivered where sizes differ, in pixels.
        pin_memory: deliver in page-locked memory, for a GPU.

    Raises:
        UnknownName: a split, engine or fetch that is not there. UsageError: a size under 1. DataError: the store can't be used.
        Unavailable: the engine can't read this store.
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
        engine=engine or found.engines[0],
        fetch=fetch,
        workers=workers,
        limit=limit,
        image_size=image_size,
        pin_memory=pin_memory,
    )
    check_engine(type(found), plan.engine)
    return Loader(found.reader(split), plan)
