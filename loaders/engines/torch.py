"""``torch``: PyTorch's DataLoader, by the batch or by the item, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.data

from datasets.errors import LoadstoneError
from loaders.engine import Batch, Engine, Key, Plan
from loaders.order import Draws, Indices
from loaders.store import Reader


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

    def __getitem__(self, asked: tuple[int, int]) -> tuple[torch.Tensor, int, int] | LoadstoneError:
        epoch, index = asked
        try:
            images, labels = self._read(epoch, np.array([index]))
        except LoadstoneError as error:
            return error
        return images[0], int(labels[0]), int(index)


def _as_it_is(batch: Any) -> Any:
    return batch


def _collate(items: Sequence[Any]) -> Batch | LoadstoneError:
    for item in items:
        if isinstance(item, LoadstoneError):
            return item
    images, labels, indices = torch.utils.data.default_collate(list(items))
    return Batch(images.permute(0, 3, 1, 2), labels, indices.numpy())


class _Keys(torch.utils.data.Sampler[Any]):
    """What DataLoader asks for: a key a batch, or a list of (epoch, index), one a sample."""

    def __init__(self, by_item: bool) -> None:
        self.next: Iterator[Key] = iter(())
        self._by_item = by_item

    def __iter__(self) -> Iterator[Any]:
        for key in self.next:
            yield [(key.epoch, index) for index in key.indices] if self._by_item else key


class TorchEngine(Engine):
    """``torch.utils.data.DataLoader``; its workers, where there are any, live as long as the engine."""

    def __init__(self, reader: Reader[Any], shape: tuple[int, int, int], plan: Plan) -> None:
        super().__init__(reader, shape, plan)
        by_item = plan.fetch == "item"
        self._keys = _Keys(by_item)
        self._loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            (_ByItem if by_item else _ByBatch)(reader, shape, plan.seed, plan.training),
            batch_size=1 if by_item else None,
            sampler=None if by_item else self._keys,
            batch_sampler=self._keys if by_item else None,
            collate_fn=_collate if by_item else _as_it_is,
            num_workers=plan.workers,
            persistent_workers=plan.workers > 0,
            multiprocessing_context="fork" if plan.workers else None,
            pin_memory=plan.pin_memory,
        )

    def epoch(self, keys: Iterator[Key]) -> Generator[Batch]:
        self._keys.next = keys
        for batch in self._loader:
            if isinstance(batch, LoadstoneError):
                raise batch
            yield batch

    def close(self) -> None:
        del self._loader
        super().close()
