"""``stream``: for readers whose batches are born on a GPU; reads ahead on a stream of its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.errors import UsageError
from loaders.backends.gpu_mmap import Gathered, GpuMmapReader
from loaders.backends.mmap import MmapReader
from loaders.engine import Batch, Engine, Key, Plan
from loaders.engines.threads import ThreadsEngine
from loaders.mapping import check_bounds
from loaders.store import Reader
from loaders.tensor_augment import Cutter, Drawer

# Indices and labels go to the device so many at a time, and draws are made of them there: each costs some thirty launches.
BLOCK = 1 << 16
# Groups that are gathered before the first of them is handed over.
AHEAD = 2


class _Group(NamedTuple):
    """Batches that were read by one call, and the point on the side stream at which they are there."""

    images: torch.Tensor
    labels: torch.Tensor
    keys: list[Key]
    mark: Any


class _Block(NamedTuple):
    """Keys of one epoch, and what the device knows of them: int64 (n,), int64 (n,), integers (3, n) where it crops."""

    keys: list[Key]
    places: torch.Tensor
    labels: torch.Tensor
    drawn: torch.Tensor | None


class StreamEngine(Engine):
    """Reads groups of batches ahead, and lets the training stream wait for the one that it is given.

    Where the CPU reads, the engine ``threads`` does it, by ``workers`` threads, 0 being its rule's number, and each batch is
    copied ahead.
    """

    def __init__(self, reader: Reader[Any], shape: tuple[int, int, int], plan: Plan) -> None:
        super().__init__(reader, shape, plan)
        if not isinstance(reader, GpuMmapReader):
            raise UsageError(f"the stream engine reads gpu_mmap, not {reader.store.name}; name another engine")
        self._reader: GpuMmapReader = reader
        self._staging: ThreadsEngine | None = None
        self._augment = plan.augment if plan.training else None
        self._draw: Drawer | None = None
        self._cut: Cutter | None = None

    def epoch(self, keys: Iterator[Key]) -> Generator[Batch, None, None]:
        way = self._reader.way
        groups = self._gathered(keys, way) if isinstance(way, Gathered) else self._staged(keys)
        with contextlib.closing(groups):
            ahead: deque[_Group] = deque()
            while isinstance(came := _next(groups), _Group):
                ahead.append(came)
                if len(ahead) > AHEAD:
                    yield from self._hand_over(ahead.popleft())
            while ahead:
                yield from self._hand_over(ahead.popleft())
            if came is not None:  # the consumer gets an error after the batches before it
                raise came

    def _staged(self, keys: Iterator[Key]) -> Generator[_Group, None, None]:
        """Each batch by a copy of what threads read into pinned memory."""
        gpu = self._reader.gpu
        if self._staging is None:
            pinned = gpu.device.type != "cpu"
            reader = MmapReader(self._reader.store, self._reader.split)
            self._staging = ThreadsEngine(reader, self.shape, dataclasses.replace(self.plan, pin_memory=pinned))
        with contextlib.closing(self._staging.epoch(keys)) as batches:
            for batch in batches:
                with gpu.beside():
                    images = batch.images.permute(0, 2, 3, 1).to(gpu.device, non_blocking=True)
                    labels = batch.labels.to(gpu.device, non_blocking=True)
                    mark = gpu.mark()
                # Torch's allocator gives pinned memory away again only when the copies from it are done.
                yield _Group(images, labels, [Key(0, batch.indices)], mark)

    def _gathered(self, keys: Iterator[Key], way: Gathered) -> Generator[_Group, None, None]:
        """Several batches by one gather of the device."""
        batch_bytes = self.plan.batch_size * int(np.prod(self.shape))
        size = max(1, way.group_bytes // batch_bytes)
        if self._augment is not None and self._cut is None:
            device = self._reader.gpu.device
            with self._reader.gpu.beside():  # where they are used
                self._draw, self._cut = Drawer(self._augment, device), Cutter(self._augment, self.shape[:2], device)
        for block in self._blocks(keys):
            for start in range(0, len(block.keys), size):
                yield self._gather(way, block, start, size)

    def _blocks(self, keys: Iterator[Key]) -> Iterator[_Block]:
        gpu = self._reader.gpu
        while some := list(islice(keys, max(1, BLOCK // self.plan.batch_size))):
            indices = np.concatenate([key.indices for key in some])
            check_bounds(indices, len(self._reader))
            with gpu.beside():
                places, labels = gpu.upload(np.stack((indices, self._reader.labels_at(indices)))).unbind(0)
                drawn = self._draw(places, self.plan.seed, some[0].epoch) if self._draw else None
            yield _Block(some, places, labels, drawn)

    def _gather(self, way: Gathered, block: _Block, first: int, size: int) -> _Group:
        """``size`` batches of a block, from batch ``first`` on."""
        gpu, keys = self._reader.gpu, block.keys[first : first + size]
        begin = first * self.plan.batch_size
        end = begin + sum(len(key.indices) for key in keys)
        with gpu.beside():
            images, places = gpu.empty((end - begin, *self.shape)), block.places[begin:end]
            for part in self._calls(len(images)):
                way.gather(places[part], images[part])
            if self._cut is not None and block.drawn is not None:
                images = self._cut(images, block.drawn[:, begin:end])
            return _Group(images, block.labels[begin:end], keys, gpu.mark())

    def _calls(self, count: int) -> Iterator[slice]:
        """What one call reads of ``count`` pictures: all, or by ``item`` one."""
        step = 1 if self.plan.fetch == "item" else max(1, count)
        return (slice(start, start + step) for start in range(0, count, step))

    def _hand_over(self, group: _Group) -> Iterator[Batch]:
        self._reader.gpu.join(group.mark, group.images, group.labels)
        # Only the last batch of an epoch may be smaller.
        size = len(group.keys[0].indices)
        images, labels = torch.split(group.images.permute(0, 3, 1, 2), size), torch.split(group.labels, size)
        for picture, label, key in zip(images, labels, group.keys, strict=True):
            yield Batch(picture, label, key.indices)

    def close(self) -> None:
        if self._staging is not None:
            self._staging.close()
            self._staging = None
        super().close()


def _next(groups: Iterator[_Group]) -> _Group | Exception | None:
    """What comes next: a group, an error in its place, or nothing."""
    try:
        return next(groups, None)
    except Exception as error:
        return error
