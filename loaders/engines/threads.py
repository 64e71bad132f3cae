"""``threads``: a few threads of this process read whole batches ahead, in order, into memory that is used again."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from datasets.errors import UsageError
from loaders.codec import Pixels
from loaders.engine import Batch, Engine, Key, Plan
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
# Decoding and decompressing are bound by cores; beyond these a GPU of today has more pictures than it can train on.
DECODING_THREADS = 16


def threads_by_rule(copies: bool, cores: int) -> int:
    """The number of threads where none is asked for: by whether they only copy, and how many cores there are.

    A thread that is ahead sleeps, so the rule bounds how much of a machine a slow epoch may take, not what a fast one does.
    """
    return max(1, min(cores, COPYING_THREADS if copies else DECODING_THREADS))


# Batches, up to one that can't be read and in its place the error.
_Portion = list[Batch | BaseException]


class _Task(NamedTuple):
    """A portion to be read, and the queue that takes what came of it: one element, put there by whoever is first.

    With such queues an epoch that only copies took an eighth less time than with a pool's futures, which are made of Python.
    """

    read: Callable[[Reader[Any], list[Key]], _Portion]
    keys: list[Key]
    answer: SimpleQueue[_Portion]


_Todo = SimpleQueue[_Task | None]


def _work(todo: _Todo, reader: Reader[Any]) -> None:
    """What a thread does until None comes. While it waits it holds nothing of the engine, which may be dropped."""
    while (task := todo.get()) is not None:
        if task.answer.empty():  # else nobody waits for it any more
            task.answer.put(task.read(reader, task.keys))
        del task


def _end(todo: _Todo, count: int) -> None:
    for _ in range(count):
        todo.put(None)


def _delivered(found: Batch | BaseException) -> Batch:
    if isinstance(found, BaseException):
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
        self.threads = plan.workers or threads_by_rule(reader.copies, len(os.sched_getaffinity(0)))
        copied = reader.copies and plan.fetch == "batch"
        self.portion = max(1, min(PORTION, PORTION_BYTES // (plan.batch_size * math.prod(shape)))) if copied else 1
        self._pin = plan.pin_memory and torch.cuda.is_available()
        if plan.pin_memory and not self._pin:
            warnings.warn("pin_memory: there is no GPU here, batches stay in pageable memory", stacklevel=4)
        self._readers = [reader]
        self._free: list[npt.NDArray[np.uint8]] = []
        self._todo: _Todo = SimpleQueue()
        self._running: list[threading.Thread] = []
        self._owner = 0

    def epoch(self, keys: Iterator[Key]) -> Generator[Batch]:
        todo = self._started()
        portions = iter(lambda: list(islice(keys, self.portion)), [])
        begun = (self._asked(todo, portion) for portion in portions)
        pending = deque(islice(begun, self.threads + READY))
        try:
            while pending:
                came = deque(pending.popleft().get())
                pending.extend(islice(begun, 1))
                while came:
                    yield _delivered(came.popleft())  # and no hold is kept of it: its memory may be used again
        finally:
            # Not waited for: what is being read now ends by itself, and is dropped.
            for answer in pending:
                answer.put([])

    def _started(self) -> _Todo:
        """What the threads take their work from; a forked child has none of its parent's, and starts its own."""
        if not self._running or self._owner != os.getpid():
            self._todo, self._running, self._owner = SimpleQueue(), [], os.getpid()
            self._readers = [self.reader, *(self.reader.twin() for _ in range(self.threads - 1))]
            weakref.finalize(self, _end, self._todo, self.threads).atexit = False
            _STARTED.add(self)
            for number, reader in enumerate(self._readers):
                name = f"loadstone reads {number}"
                thread = threading.Thread(target=_work, args=(self._todo, reader), name=name, daemon=True)
                thread.start()
                self._running.append(thread)
        return self._todo

    def _asked(self, todo: _Todo, keys: list[Key]) -> SimpleQueue[_Portion]:
        if todo is not self._todo:
            raise UsageError("the loader was closed in the middle of this epoch")
        task = _Task(self._read_portion, keys, SimpleQueue())
        todo.put(task)
        return task.answer

    def _read_portion(self, reader: Reader[Any], keys: list[Key]) -> _Portion:
        try:
            return self._batches(reader, keys)
        except BaseException as error:  # whatever it is, the consumer gets it after the batches before it
            return [error] if len(keys) == 1 else self._up_to_the_error(reader, keys)

    def _up_to_the_error(self, reader: Reader[Any], keys: list[Key]) -> _Portion:
        found: _Portion = []
        try:
            for key in keys:
                found += self._batches(reader, [key])
        except BaseException as error:
            found.append(error)
        return found

    def _batches(self, reader: Reader[Any], keys: list[Key]) -> _Portion:
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
        self.stop()
        self._free.clear()
        for reader in self._readers:
            reader.close()
        super().close()

    def stop(self) -> None:
        """End the threads, each after what it reads now; what they have not begun is not read."""
        if self._running and self._owner == os.getpid():
            with contextlib.suppress(Empty):
                while (task := self._todo.get_nowait()) is not None:
                    task.answer.put([UsageError("the loader was closed in the middle of this epoch")])
            _end(self._todo, len(self._running))
            for thread in self._running:
                thread.join()
        self._todo, self._running = SimpleQueue(), []


# A thread that still reads when the interpreter is taken down under it would take the process down with it.
_STARTED: weakref.WeakSet[ThreadsEngine] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for engine in list(_STARTED):
        engine.stop()
