"""Columns of a split as ``.npy`` files beside the data: labels, and where payloads differ, offsets and sizes.

Read by mapping, never whole: opening costs the same at a thousand samples and at a hundred million. Written by plain
writes: a mapped write to a full disk would kill the process instead of raising.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.errors import StoreCorrupt
from loaders.lazy import lazy
from loaders.manifest import Content
from loaders.order import Indices
from loaders.store import Handle, Labels, Reader, Sizes

_BUFFERED = 1 << 16
# Columns up to this may well be in memory as a whole.
_WHOLE_BYTES = 32 << 20

_KINDS: dict[str, tuple[str, tuple[int, ...]]] = {"labels": ("<i8", ()), "offsets": ("<i8", ()), "sizes": ("<i4", (2,))}
"""Of each column: dtype, and shape behind the first dimension."""


def path(root: Path, split: str, name: str) -> Path:
    """Where a column stands."""
    return root / f"{split}.{name}.npy"


class Column:
    """Appends numbers to a ``.npy`` file whose length is known beforehand."""

    def __init__(self, root: Path, split: str, name: str, length: int) -> None:
        self._dtype, width = _KINDS[name]
        self._file = path(root, split, name).open("wb")
        header = {"descr": self._dtype, "fortran_order": False, "shape": (length, *width)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._waiting = array("q")

    def append(self, *numbers: int) -> None:
        """Add numbers in row order."""
        self._waiting.extend(numbers)
        if len(self._waiting) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        self._file.write(np.asarray(self._waiting, dtype=np.int64).astype(self._dtype).tobytes())
        del self._waiting[:]

    def close(self) -> None:
        """Write what waits, and flush it to the disk."""
        with self._file:
            self._flush()
            self._file.flush()
            os.fsync(self._file.fileno())


class Columns:
    """Writes the columns of one split: ``labels`` int64 (n,), ``offsets`` int64 (n + 1,), ``sizes`` int32 (n, 2).

    ``offsets`` only where payloads differ in length, ``sizes`` only where pictures differ in size.
    """

    def __init__(self, root: Path, split: str, content: Content) -> None:
        count = content.counts[split]
        self._labels = Column(root, split, "labels", count)
        self._offsets = Column(root, split, "offsets", count + 1) if content.record_bytes is None else None
        self._sizes = Column(root, split, "sizes", count) if content.shape is None else None
        self._end = 0
        if self._offsets is not None:
            self._offsets.append(0)

    def append(self, label: int, length: int, height: int, width: int) -> None:
        """Add one sample: its label, payload length in bytes, and size in pixels."""
        self._labels.append(label)
        self._end += length
        if self._offsets is not None:
            self._offsets.append(self._end)
        if self._sizes is not None:
            self._sizes.append(height, width)

    def extend(self, labels: npt.NDArray[np.int64]) -> None:
        """Add samples that have neither offsets nor sizes of their own."""
        assert self._offsets is None
        assert self._sizes is None
        self._labels.append(*labels.tolist())

    def __enter__(self) -> Columns:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.ExitStack() as closing:  # all of them, even where there is no room for the first
            for column in (self._labels, self._offsets, self._sizes):
                if column is not None:
                    closing.callback(column.close)


def read(root: Path, split: str, name: str, length: int) -> npt.NDArray[Any]:
    """Map a column.

    Raises:
        StoreCorrupt: it is missing, unreadable, or not ``length`` long.
    """
    file = path(root, split, name)
    try:
        column: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python, and a damaged one fails in many ways
        raise StoreCorrupt(root, f"{file.name} can't be read ({error})") from None
    dtype, width = _KINDS[name]
    if column.dtype != dtype or column.shape[1:] != width or not column.flags.c_contiguous:
        raise StoreCorrupt(root, f"{file.name} holds {column.dtype} {column.shape} where {dtype} belongs")
    if len(column) != length:
        raise StoreCorrupt(root, f"{file.name} holds {len(column)} entries where {length} belong")
    if column.nbytes > _WHOLE_BYTES and isinstance(column.base, mmap.mmap):
        # Else each number read maps 16 pages: a shuffled batch of 256 out of 100 M samples took 16 MB.
        column.base.madvise(mmap.MADV_RANDOM)
    return np.asarray(column)  # plain: a memmap pays for its class at every batch


class ColumnReader(Reader[Handle]):
    """A reader of a format that leaves labels, sizes and offsets to the columns beside it."""

    @lazy
    def labels(self) -> Labels:
        return read(self.store.root, self.split, "labels", len(self))

    @lazy
    def sizes(self) -> Sizes:
        return read(self.store.root, self.split, "sizes", len(self))

    @lazy
    def offsets(self) -> Indices:
        """Where payloads begin, where they differ in length: int64 (n + 1,)."""
        return read(self.store.root, self.split, "offsets", len(self) + 1)
