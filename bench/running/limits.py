"""What this machine could do at best: copying, gathering and decoding in plain threads, with no loader around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from loaders.manifest import CodecName
from loaders.order import Draws, Indices
from loaders.store import Reader

PATHS = {
    "copy": "numpy.copyto of all pictures, in sequence, to another place in RAM",
    "gather": "numpy.take from an array in RAM into one buffer a thread",
    "decode": "the reader's own decoding of bytes in RAM into one buffer a thread, in a bare loop",
}
"""The limits, and the code path of each."""


def unfit(kind: str, codec: CodecName, shape: tuple[int, int, int] | None) -> str:
    """Why a limit says nothing of pictures held so; empty where it does."""
    if kind == "decode":
        return "there is nothing to decode in raw" if codec == "raw" and shape is not None else ""
    return "" if codec == "raw" and shape is not None else f"it takes raw pictures of one size, not {codec}"


Step = Callable[[int, Indices], None]
"""Does one batch's share of the work: its first place in the order, and its indices."""


def stopwatch(
    kind: str, reader: Reader[Any], order: Indices, shape: tuple[int, int, int], batch: int, threads: int
) -> Callable[[int], float]:
    """Seconds, for a number of passes over the order, until all threads have done their share, each a batch at a time.

    Args:
        kind: one of ``PATHS``.
        reader: of the ``memory`` backend.
        order: int64 (n,).
        shape: of a picture as it is delivered.
        batch: pictures.
        threads: at least 1.
    """
    # Once for all passes: memory that is new has yet to be made, page by page, and the first pass does that.
    steps = [_step(kind, reader.twin(), shape, batch) for _ in range(threads)]
    starts = range(0, len(order), batch)

    def work(share: int, passes: int) -> None:
        for _ in range(passes):
            for start in starts[share::threads]:
                steps[share](start, order[start : start + batch])

    def seconds(passes: int) -> float:
        running = [threading.Thread(target=work, args=(share, passes)) for share in range(threads)]
        begin = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return time.perf_counter() - begin

    return seconds


def _step(kind: str, reader: Reader[Any], shape: tuple[int, int, int], batch: int) -> Step:
    return {"copy": _copy, "gather": _gather, "decode": _decode}[kind](reader, shape, batch)


def _copy(reader: Reader[Any], _: tuple[int, int, int], __: int) -> Step:
    pictures = reader.handle.data
    target = np.empty_like(pictures)

    def step(start: int, indices: Indices) -> None:
        end = start + len(indices)
        np.copyto(target[start:end], pictures[start:end])

    return step


def _gather(reader: Reader[Any], _: tuple[int, int, int], batch: int) -> Step:
    pictures = reader.handle.data
    buffer = np.empty((batch, *pictures.shape[1:]), np.uint8)

    def step(_: int, indices: Indices) -> None:
        np.take(
            pictures, indices, axis=0, out=buffer[: len(indices)], mode="clip"
        )  # clip: straight into the buffer, off the GIL

    return step


def _decode(reader: Reader[Any], shape: tuple[int, int, int], batch: int) -> Step:
    buffer, draws = np.empty((batch, *shape), np.uint8), Draws(0, 0, training=True)

    def step(_: int, indices: Indices) -> None:
        reader.read(indices, buffer[: len(indices)], draws)

    return step
