"""A slow-down of known size in the read path: what ``loadstone calibrate`` plants, to see whether it is found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from loaders.codec import Buffer, Pixels
from loaders.order import Draws, Indices
from loaders.store import Labels, Reader, Sample, Sizes, Store


class PlantedStore(Store):
    """A store whose readers take longer than they need.

    Args:
        store: what is read.
        fraction: of the time that each read took, spent once more doing nothing.
    """

    name = "planted"

    def __init__(self, store: Store, fraction: float) -> None:
        super().__init__(store.root, store.content, server=store.server)
        self.store, self.fraction = store, fraction

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        self.store.write(split, samples)

    def reader(self, split: str) -> PlantedReader:
        return PlantedReader(self, split)


class PlantedReader(Reader[Reader[Any]]):
    """Reads as the reader it stands for, then busy-waits; says so in ``path_taken``."""

    store: PlantedStore

    def __init__(self, store: PlantedStore, split: str) -> None:
        super().__init__(store, split)
        self._reader = store.store.reader(split)

    def _open(self) -> Reader[Any]:
        return self._reader

    def _close(self, handle: Reader[Any]) -> None:
        handle.close()

    @property
    def labels(self) -> Labels:
        return self._reader.labels

    @property
    def sizes(self) -> Sizes:
        return self._reader.sizes

    @property
    def path_taken(self) -> str:
        return f"{self._reader.path_taken}, each read slowed by {100 * self.store.fraction:g} % on purpose"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        return self._reader.payloads(indices)

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        started = time.perf_counter()
        self.handle.read(indices, out, draws)
        # Not a sleep: that is no shorter than the kernel's timers, and lets others have the processor.
        ended = time.perf_counter()
        until = ended + self.store.fraction * (ended - started)
        while time.perf_counter() < until:
            pass
