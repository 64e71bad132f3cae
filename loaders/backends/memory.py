"""``memory``: the whole split in RAM; the bound for every reader on a CPU, not a way to store pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loaders.backends.mmap import MmapReader, MmapStore
from loaders.codec import Pixels


class MemoryStore(MmapStore):
    """The files of ``mmap``, read whole when a reader is made."""

    name = "memory"

    def reader(self, split: str) -> MemoryReader:
        reader = MemoryReader(self, split)
        reader.preload()
        return reader


class MemoryReader(MmapReader):
    """Reads the split into RAM when the store makes it, before any worker is forked, so that workers share the one copy."""

    inherits_handle = True

    def preload(self) -> None:
        """Read the split now."""
        self._handle, self._owner = self._open(), os.getpid()

    def close(self) -> None:
        """Nothing: the split stays in RAM, to be shared with workers forked later, until the reader is dropped."""

    def _bytes(self, file: Path) -> tuple[Pixels, str]:
        return np.fromfile(file, np.uint8), ""

    @property
    def path_taken(self) -> str:
        return "np.take of an array in RAM" if self.content.record_bytes is not None else "views of bytes in RAM"
