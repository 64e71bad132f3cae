"""A small fixed piece of work, timed before and after every run: whether the machine was as quick as it is when calm."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench import machine
from loaders.codec import Pixels

SLOWER = 1.5
"""Times the calm value: a run beside which the reference took longer is disturbed."""

_BYTES = 4 << 20  # beyond a core's own caches: memory that is fought over is seen too
_MOST_THREADS = 8
_COPIES = 40
_SUMS = 30
_WARMING = 5


class Reference:
    """The reference kernel: on every core at once, copies of memory and integer arithmetic; some 35 ms where nothing disturbs.

    On all cores, since a neighbour that takes one of them leaves a single thread its own.
    """

    def __init__(self) -> None:
        self._threads = min(machine.cores(), _MOST_THREADS)
        self._data = [np.arange(_BYTES, dtype=np.uint8) for _ in range(2 * self._threads)]
        for _ in range(_WARMING):  # first touch, and a processor that comes out of its sleep
            self()

    def __call__(self) -> float:
        """Seconds that it took."""
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(_nothing, range(self._threads)))  # threads are started outside the clock
            begin = time.perf_counter()
            list(pool.map(_work, self._data[::2], self._data[1::2]))
            return time.perf_counter() - begin


def _nothing(_: int) -> None:
    return None


def _work(source: Pixels, target: Pixels) -> None:
    """NumPy frees the GIL in both."""
    for _ in range(_COPIES):
        np.copyto(target, source)
    numbers = source.view(np.int32)
    for _ in range(_SUMS):
        np.multiply(numbers, 3, out=target.view(np.int32))
        target.view(np.int32).sum(dtype=np.int64)


def calm(seconds: Sequence[float]) -> float:
    """What the reference takes when the machine is calm: the lower quartile of those seen.

    Not the least, which one lucky moment makes; not the middle, which a machine that is busy half the time moves.
    """
    return float(np.quantile(seconds, 0.25))


def is_disturbed(seconds: float, seen: Sequence[float]) -> bool:
    """Whether the reference was slower than ``SLOWER`` times its calm value; ``seen`` are all until now."""
    return bool(seen) and seconds > SLOWER * calm(seen)
