"""``stream``: for readers whose batches are born on a GPU; reads ahead on a stream of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.errors import UsageError
from loaders.backends.gpu_mmap import SLOTS, GpuMmapReader
from loaders.engine import Batch, Engine, Key, Plan
from loaders.order import Draws
from loaders.store import Reader

# A gather of 4,096 CIFAR records ran at 1.5 times the speed of one of 512 over the bus, and at 8 times from GPU memory.
# So batches are gathered together up to this size, which is that of 4,096 CIFAR records.
GROUP_BYTES = 12 << 20
# Threads that fill pinned memory: more of them held the GIL more, and two made an epoch as fast as any number.
STAGING_THREADS = 2


class _Group(NamedTuple):
    """Batches that were read by one call, and the point on the side stream at which they are there."""

    images: torch.Tensor
    labels: torch.Tensor
    keys: list[Key]
    mark: Any


class StreamEngine(Engine):
    """Reads two groups of batches ahead, and lets the training stream wait for the one that it is given.

    ``workers`` is the number of threads that fill pinned memory where a way needs some; 0 is the rule's number.
    """

    def __init__(self, reader: Reader[Any], shape: tuple[int, int, int], plan: Plan) -> None:
        super().__init__(reader, shape, plan)
        if not isinstance(reader, GpuMmapReader):
            raise UsageError(f"the stream engine reads gpu_mmap, not {reader.store.name}; name another engine")
        self._reader: GpuMmapReader = reader
        self._threads: ThreadPoolExecutor | None = None

    def epoch(self, keys: Iterator[Key]) -> Generator[Batch, None, None]:
        ahead: deque[Future[_Group]] = deque()
        try:
            for group in self._groups(keys):
                ahead.append(self._ask(group))
                if len(ahead) == SLOTS:
                    yield from self._hand_over(ahead.popleft())
            while ahead:
                yield from self._hand_over(ahead.popleft())
        finally:
            for asked in ahead:
                if not asked.cancel():
                    asked.exception()

    def _groups(self, keys: Iterator[Key]) -> Iterator[list[Key]]:
        """Batches that one call reads: several of an epoch where a way gathers, one where it stages."""
        batch_bytes = self.plan.batch_size * int(np.prod(self.shape))
        size = max(1, GROUP_BYTES // batch_bytes) if self._reader.way.grouped else 1
        group: list[Key] = []
        for key in keys:
            group.append(key)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group

    def _ask(self, group: list[Key]) -> Future[_Group]:
        if not self._reader.way.grouped:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.plan.workers or STAGING_THREADS, "loadstone stream")
            return self._threads.submit(self._read, group)
        done: Future[_Group] = Future()
        done.set_result(self._read(group))
        return done

    def _read(self, keys: list[Key]) -> _Group:
        gpu = self._reader.gpu
        indices = np.concatenate([key.indices for key in keys])
        draws = Draws(self.plan.seed, keys[0].epoch, self.plan.training)
        with gpu.beside():
            images = gpu.empty((len(indices), *self.shape))
            step = 1 if self.plan.fetch == "item" else len(indices)
            for start in range(0, len(indices), step):
                self._reader.read(indices[start : start + step], images[start : start + step], draws)
            labels = gpu.upload(self._reader.labels_at(indices))
            return _Group(images, labels, keys, gpu.mark())

    def _hand_over(self, asked: Future[_Group]) -> Iterator[Batch]:
        images, labels, keys, mark = asked.result()
        self._reader.gpu.join(mark, images, labels)
        start = 0
        for key in keys:
            end = start + len(key.indices)
            yield Batch(images[start:end].permute(0, 3, 1, 2), labels[start:end], key.indices)
            start = end

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        super().close()
