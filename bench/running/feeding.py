"""What feeds a run's epochs: one loader for all where the cache is warm, a fresh one over dropped pages where it is cold."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import TracebackType

from bench.record import Epoch
from bench.running.cache import Drop, Dropped
from bench.running.usage import Meter
from loaders.loading import Loader
from train.clock import EpochTimes


class Feeding:
    """The loaders of a run; a context manager that closes the last one.

    Args:
        make: a new loader of the run's cell.
        meter: counts what the run reads.
        drop: drops the store's pages before each epoch; None where the cache is to be warm.

    Attributes:
        loader: the one that is open.
        not_cold: why an epoch that was to be cold was not; empty where all were.
    """

    def __init__(self, make: Callable[[], Loader], meter: Meter, drop: Drop | None) -> None:
        self._make, self._meter, self._drop = make, meter, drop
        self.loader = make()
        self.not_cold = ""

    @property
    def cold(self) -> bool:
        """Whether pages are dropped before each epoch."""
        return self._drop is not None

    @property
    def path_taken(self) -> str:
        """The code path that served the reads; it says where they were not as cold as was asked for."""
        return self.loader.path_taken + (f"; not cold: {self.not_cold}" if self.not_cold else "")

    def epoch(self, number: int, time: Callable[[Loader], EpochTimes], passes: int = 1) -> Epoch:
        """Time an epoch; ``time`` goes through the loader ``passes`` times. Dropping pages is outside its clock."""
        dropped = self._fresh(number)
        before = self._meter.read().bytes_read
        times = time(self.loader)
        return Epoch(
            total=times.total,
            wait=times.wait,
            copy_=times.copy,
            step=times.step,
            images=times.images,
            first_batch=times.first_batch,
            passes=passes,
            bytes_read=self._meter.read().bytes_read - before,
            resident=dropped.resident if dropped else None,
        )

    def _fresh(self, number: int) -> Dropped | None:
        """Close the loader, its workers and mappings, drop the pages, and open another: pages in use are not dropped."""
        if self._drop is None:
            return None
        self._meter.pause()
        self.loader.close()
        del self.loader
        gc.collect()
        dropped = self._drop()
        self._meter.replace(dropped.server)
        self.loader = self._make()
        self.loader.set_epoch(number)
        self.not_cold = self.not_cold or dropped.reason or self._held_in_memory()
        return dropped

    def _held_in_memory(self) -> str:
        held = self.loader.reader.store.name == "memory"
        return "its pictures are an array of the process, whose pages are not the file's" if held else ""

    def __enter__(self) -> Feeding:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if hasattr(self, "loader"):  # not where dropping failed
            self.loader.close()
