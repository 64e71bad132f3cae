"""``loader(...)``: the one way in, from a store to batches."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from datasets.errors import UnknownName, UsageError
from loaders import order
from loaders.augment import Augment
from loaders.engine import Batch, Key, Plan, engine_class
from loaders.order import Indices, Order
from loaders.pack import open_store
from loaders.registry import check_engine
from loaders.store import Reader, Store

# Samples whose order is worked out at once where it is not made whole: few calls, and little memory.
_BLOCK = 1 << 14


class Loader:
    """Batches of one split, epoch after epoch; made by ``loader(...)``.

    Iterate it as a ``DataLoader``: each iteration is the next epoch, with an order of its own; ``set_epoch`` names one.
    ``len`` is the number of batches, the last one, which may be smaller, included. ``state_dict`` and ``load_state_dict``
    go on in mid-epoch. A batch is the consumer's: nothing overwrites it while it is held.
    """

    def __init__(self, reader: Reader[Any], plan: Plan) -> None:
        self.reader, self.plan = reader, plan
        self.epoch = 0
        self._start = 0
        self._reached = (0, 0)
        whole = plan.limit is None or plan.limit >= len(reader)
        self._subset = None if whole else order.subset(len(reader), plan.limit)
        self._engine = engine_class(plan.engine)(reader, self.shape, plan)

    def __len__(self) -> int:
        return -(-self.images // self.plan.batch_size)

    @property
    def images(self) -> int:
        """Pictures of an epoch."""
        return len(self.reader if self._subset is None else self._subset)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every picture delivered."""
        fixed = self.reader.content.shape
        size = self.plan.image_size
        return fixed if fixed is not None else (size, size, self.reader.content.channels)

    @property
    def path_taken(self) -> str:
        """The code path that serves the reads, and what decodes."""
        return self._engine.path_taken

    def order(self, epoch: int) -> Indices:
        """The order of an epoch, whole: int64 (images,)."""
        return self._chosen(self._places(epoch), slice(None))

    def _places(self, epoch: int) -> Order:
        """The order of an epoch among the pictures chosen."""
        return order.by_part(self.images, self.plan.seed, epoch) if self.plan.shuffle else order.InOrder(self.images)

    def _chosen(self, places: Order, part: slice) -> Indices:
        return places[part] if self._subset is None else self._subset[places[part]]

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch; after ``torch.utils.data.DistributedSampler``.

        The epoch that ``load_state_dict`` set goes on where its state was taken, any other one begins at its first batch.
        """
        if epoch != self.epoch:
            self.epoch, self._start = epoch, 0
            self._reached = (epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """Where reading stands: ``seed``, ``epoch`` and ``batch``, the next one to be delivered.

        Once the last one is delivered that is the first of the next epoch. Batches that were read ahead and not delivered
        do not count. After torchdata's ``StatefulDataLoader``.
        """
        epoch, batch = self._reached
        if batch >= len(self):
            epoch, batch = epoch + 1, 0
        return {"seed": self.plan.seed, "epoch": epoch, "batch": batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration go on where ``state_dict`` was taken, by this loader or one made alike.

        Raises:
            UsageError: the state is of another seed, or of more batches than an epoch has here.
        """
        if state["seed"] != self.plan.seed:
            raise UsageError(f"the state is of seed {state['seed']}, the loader of {self.plan.seed}; make it with the state's")
        if not 0 <= state["batch"] < max(1, len(self)):
            found = f"the state is of batch {state['batch']}, an epoch has {len(self)}"
            raise UsageError(f"{found}; make the loader with the state's batch_size and limit")
        self.epoch, self._start = state["epoch"], state["batch"]
        self._reached = (self.epoch, self._start)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.epoch, self._start
        self.epoch, self._start = epoch + 1, 0
        self._reached = (epoch, start)
        return self._counted(epoch, start)

    def _counted(self, epoch: int, start: int) -> Iterator[Batch]:
        with contextlib.closing(self._engine.epoch(self._keys(epoch, start))) as batches:
            for number in itertools.count(start + 1):
                if (batch := next(batches, None)) is None:
                    return
                self._reached = (epoch, number)
                yield batch
                del batch  # the consumer's to keep or drop

    def _keys(self, epoch: int, start: int) -> Iterator[Key]:
        places, size = self._places(epoch), self.plan.batch_size
        block = size * max(1, _BLOCK // size)
        for begin in range(start * size, len(places), block):
            indices = self._chosen(places, slice(begin, begin + block))
            for first in range(0, len(indices), size):
                yield Key(epoch, indices[first : first + size])

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
    engine: Literal["torch", "threads", "native", "stream"] | None = None,
    fetch: Literal["item", "batch"] = "batch",
    workers: int = 0,
    limit: int | None = None,
    image_size: int = 224,
    pin_memory: bool = False,
    augment: Augment | None = None,
) -> Loader:
    """Batches of a store's split, in the one order that every backend and engine shares.

    Args:
        store: a store, or the folder of one.
        split: ``train`` or ``val``.
        batch_size: pictures of a batch; the last batch may hold fewer, and is delivered.
        seed: of order and draws.
        shuffle: another order each epoch; by default for ``train`` only.
        training: random-resized-crop rather than centre crop, where sizes differ; by default for ``train`` only.
        engine: what runs the reads: ``torch``, PyTorch's DataLoader; ``threads``, threads of this process; ``native``, a peer's
            own; ``stream``, where batches are born on a GPU. By default the store's usual one.
        fetch: ``batch`` asks the reader for a batch, ``item`` for one sample at a time.
        workers: processes that read ahead, and 0 reads when asked; of ``threads`` threads, and 0 is their number by rule.
        limit: pictures of an epoch, the same ones each time; None is all.
        image_size: height and width delivered where sizes differ, in pixels.
        pin_memory: deliver in page-locked memory, for a GPU.
        augment: what a store that ``augments`` does to training pictures by itself.

    Raises:
        UnknownName: a split, engine or fetch that is not there. UsageError: a size under 1, workers under 0, or ``augment``
            for a store that leaves it to the training.
        DataError: the store can't be used. Unavailable: the engine can't read this store.
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
        augment=augment,
    )
    if augment is not None and not found.augments:
        raise UsageError(f"{found.name} leaves cropping and mirroring to the training; leave out augment")
    check_engine(type(found), plan.engine)
    return Loader(found.reader(split), plan)
