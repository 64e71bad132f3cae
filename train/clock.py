"""What an epoch's time is, and where it went.

The span runs from just before the first batch is asked for to the end of the last step on the device. Marks are set on
the device's own timeline between the parts of every step, and read after its end, so that timing waits for nothing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from datasets.errors import RunFailed

Batch = TypeVar("Batch")
Placed = TypeVar("Placed")


class Mark(Protocol):
    """A point on a timeline; ``torch.cuda.Event`` is one."""

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds from here to ``end``; asked only after the clock's ``sync``."""


@dataclass(frozen=True)
class Clock:
    """What time is read by; tests pass a fake.

    Attributes:
        now: seconds, monotonic, of the process.
        sync: returns when everything asked of the device is done.
        mark: sets a mark on the device's timeline and returns at once. None marks the process's own time, which is the
            device's too where the device is the CPU.
    """

    now: Callable[[], float]
    sync: Callable[[], object]
    mark: Callable[[], Mark] | None = None

    @classmethod
    def of(cls, device: torch.device) -> Clock:
        """The clock of a CPU, or of a CUDA device (marks are events on its current stream)."""
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device)  # looked up once: a mark is set three times a batch
            return cls(time.perf_counter, functools.partial(torch.cuda.synchronize, device), lambda: _cuda_mark(stream))
        return cls(time.perf_counter, _nothing)


def _nothing() -> None:
    """A CPU has done what it was asked for when the call returns."""


def _cuda_mark(stream: torch.cuda.Stream) -> Mark:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


class _Instant(float):
    """A mark on the process's own time, in seconds; a batch has three, so that a costlier kind would show."""

    def elapsed_time(self, end: float, /) -> float:
        return (end - self) * 1e3


@dataclass(frozen=True)
class EpochTimes:
    """One epoch, in seconds; ``wait + copy + step`` is ``total``.

    Attributes:
        total: from just before the first batch is asked for to the end of the last step on the device.
        wait: the device had nothing to do until the next batch came. On a CPU that is all the time blocked on it; on a
            GPU, which works on while the process waits, only what its own work did not cover.
        copy: bringing batches to the device.
        step: the rest.
        images: delivered.
        first_batch: until the first batch was there, on the device's timeline.
    """

    total: float
    wait: float
    copy: float
    step: float
    images: int
    first_batch: float


def time_epoch(
    batches: Iterable[Batch], copy: Callable[[Batch], Placed], step: Callable[[Placed], int], clock: Clock
) -> EpochTimes:
    """Run ``step(copy(batch))`` for every batch and say where the time went.

    Args:
        batches: asked for within the span, its start (of workers) included; what it does after its last batch is not.
        copy: brings a batch to the device. May return before it is there.
        step: uses the batch and returns the number of its images. May return before the device is done.
        clock: of the device that steps run on.

    Raises:
        RunFailed: not one batch came.
    """
    mark = clock.mark or (lambda: _Instant(clock.now()))
    clock.sync()
    images = 0
    asked = [mark()]
    came: list[Mark] = []
    placed: list[Mark] = []
    for batch in batches:
        came.append(mark())
        there = copy(batch)
        placed.append(came[-1] if there is batch else mark())
        images += step(there)
        asked.append(mark())
    clock.sync()
    if not came:
        raise RunFailed("no batch came from the loader; is the split empty?")
    return _times(asked, came, placed, images)


def _times(asked: list[Mark], came: list[Mark], placed: list[Mark], images: int) -> EpochTimes:
    # The last mark is the end of the last step: what the loader did to find out that it was the last is outside.
    total = _seconds(asked[0], asked[-1])
    wait = sum(_between(asked, came))
    copy = sum(_between(came, placed))
    return EpochTimes(total, wait, copy, total - wait - copy, images, _seconds(asked[0], came[0]))


def _between(starts: list[Mark], ends: list[Mark]) -> Iterator[float]:
    return (_seconds(start, end) for start, end in zip(starts, ends, strict=False))


def _seconds(start: Mark, end: Mark) -> float:
    return start.elapsed_time(end) / 1e3
