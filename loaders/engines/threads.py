"""``threads``: a few threads of this process read whole batches ahead, in order, into memory that is used again."""

from __future__ import annotations

import math
import os
import warnings
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loaders.codec import Pixels
from loaders.engine import Batch, Engine, Key, Plan
from loaders.manifest import Content
from loaders.order import Draws, Indices
from loaders.store import Reader

# Portions that wait for the consumer beside those being read: one to hand over at once, one against an uneven step.
READY = 2
# A portion is what a thread reads at a time, by one call of the reader. Handing over costs some 20 us of the GIL, a fifth of
# what a batch of CIFAR-10 takes to copy, and whoever waits for the GIL as long again: so small pictures that need no decoding
# go in portions of several batches, up to these. More bytes leave the caches before the consumer comes to them.
PORTION = 8
PORTION_BYTES = 4 << 20
# Copying is bound by memory, and more threads hold the GIL more: 1, 2, 4 and 8 beside an H100 with 16 cores copied
# 1.5, 2.3, 2.0 and 1.8 million CIFAR-10 pictures a second into pinned memory.
COPYING_THREADS = 2
# Decoding is bound by cores; beyond these a GPU of today has more pictures than it can train on.
DECODING_THREADS = 16


def threads_by_rule(content: Content, cores: int) -> int:
    """The number of threads where none is asked for: by what has to be done, and how many cores there are.

    A thread that is ahead sleeps, so the rule bounds how much of a machine a slow epoch may take, not what a fast one does.
    """
    return max(1, min(cores, COPYING_THREADS if content.codec == "raw" and content.shape is not None else DECODING_THREADS))


def _delivered(found: Batch | Exception) -> Batch:
    if isinstance(found, Exception):
        raise found
    return found


class ThreadsEngine(Engine):
    """Threads that live as long as the engine; ``plan.workers`` of them, or for 0 ``threads_by_rule``.

    A thread reads whole batches: sharing every batch among the threads was no faster, and hands over twice as often.
    At most ``threads + READY`` portions are read or wait at any time, beside the one that the consumer works through.

    A batch is never overwritten while anything holds it. The memory of a portion is used again once nothing holds a batch
    of it: fresh memory for every one would cost more in page faults than the copying. With ``pin_memory`` that is done by
    PyTorch's allocator of page-locked memory, which also waits for the copies to a GPU that were asked for, on whichever
    stream.
    """

    def __init__(self, reader: Reader[Any], shape: tuple[int, int, int], plan: Plan) -> None:
        super().__init__(reader, shape, plan)
        self.threads = plan.workers or threads_by_rule(reader.content, len(os.sched_getaffinity(0)))
        copied = reader.content.codec == "raw" and reader.content.shape is not None and plan.fetch == "batch"
        self.portion = max(1, min(PORTION, PORTION_BYTES // (plan.batch_size * math.prod(shape)))) if copied else 1
        self._pin = plan.pin_memory and torch.cuda.is_available()
        if plan.pin_memory and not self._pin:
            warnings.warn("pin_memory: there is no GPU here, batches stay in pageable memory", stacklevel=4)
        self._readers = [reader]
        self._free: list[npt.NDArray[np.uint8]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def epoch(self, keys: Iterator[Key]) -> Generator[Batch]:
        pool = self._started()
        portions = iter(lambda: list(islice(keys, self.portion)), [])
        begun = (pool.submit(self._read_portion, portion) for portion in portions)
        pending = deque(islice(begun, self.threads + READY))
        try:
            while pending:
                came = deque(pending.popleft().result())
                pending.extend(islice(begun, 1))
                while came:
                    yield _delivered(came.popleft())  # and no hold is kept of it: its memory may be used again
        finally:
            # Not waited for: what is being read now ends by itself, and is dropped.
            for future in pending:
                future.cancel()

    def _started(self) -> ThreadPoolExecutor:
        """The threads; a forked child has none of its parent's, and starts its own."""
        if self._pool is None or self._owner != os.getpid():
            self._readers = [self.reader, *(self.reader.twin() for _ in range(self.threads - 1))]
            self._pool, self._owner = ThreadPoolExecutor(self.threads, "loadstone reads"), os.getpid()
        return self._pool

    def _read_portion(self, keys: list[Key]) -> list[Batch | Exception]:
        """The batches, up to the one that can't be read and in its place the error."""
        reader = self._readers.pop()  # there are as many as threads
        try:
            return self._batches(reader, keys)
        except Exception as error:  # whatever it is, the consumer gets it after the batches before it
            return [error] if len(keys) == 1 else self._up_to_the_error(reader, keys)
        finally:
            self._readers.append(reader)

    def _up_to_the_error(self, reader: Reader[Any], keys: list[Key]) -> list[Batch | Exception]:
        found: list[Batch | Exception] = []
        try:
            for key in keys:
                found += self._batches(reader, [key])
        except Exception as error:
            found.append(error)
        return found

    def _batches(self, reader: Reader[Any], keys: list[Key]) -> list[Batch | Exception]:
        indices = np.concatenate([key.indices for key in keys])
        images, out = self._memory(len(indices))
        self._read(reader, keys[0].epoch, indices, out)
        labels = torch.from_numpy(reader.labels_at(indices))
        sizes = [len(key.indices) for key in keys]
        pictures = torch.split(images.permute(0, 3, 1, 2), sizes)
        classes = torch.split(labels.pin_memory() if self._pin else labels, sizes)
        return [Batch(*its, key.indices) for its, key in zip(zip(pictures, classes, strict=True), keys, strict=True)]

    def _read(self, reader: Reader[Any], epoch: int, indices: Indices, out: Pixels) -> None:
        draws = Draws(self.plan.seed, epoch, self.plan.training)
        step = 1 if self.plan.fetch == "item" else max(1, len(indices))
        for start in range(0, len(indices), step):
            reader.read(indices[start : start + step], out[start : start + step], draws)

    def _memory(self, count: int) -> tuple[torch.Tensor, Pixels]:
        """A tensor for ``count`` pictures, and the array that it looks at."""
        if self._pin:
            images = torch.empty((count, *self.shape), dtype=torch.uint8, pin_memory=True)
            return images, images.numpy()
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty((self.portion * self.plan.batch_size, *self.shape), np.uint8)
        out = memory[:count]
        # The tensor, and every view made of it, holds ``out``: when that goes, nobody looks at the memory any more.
        weakref.finalize(out, self._free.append, memory).atexit = False
        return torch.from_numpy(out), out

    def close(self) -> None:
        if self._pool is not None and self._owner == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._free.clear()
        for reader in self._readers:
            reader.close()
        super().close()
