"""Chunks of an HDF5 dataset, read where they lie in the mapped file and decompressed by zlib: outside HDF5's one lock."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from loaders.codec import Pixels
from loaders.order import Indices

_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
# Chunks whose places are looked up when a file is opened: HDF5 tells of a million in a second, and they take 17 MB.
MOST = 1 << 21


class DamagedError(OSError):
    """Chunks are not as they were written. Callers add whose they were."""


class Chunks(NamedTuple):
    """The chunks of a uint8 dataset that is cut along its first axis only.

    Attributes:
        data: uint8 (bytes,), the file. advice: what the kernel was told of it.
        starts: int64 (chunks,), where each begins. lengths: int64 (chunks,), its bytes in the file.
        deflated: bool (chunks,), whether it is compressed.
        rows: of the dataset, in each chunk. row_bytes: of one row.
    """

    data: Pixels
    advice: str
    starts: Indices
    lengths: Indices
    deflated: npt.NDArray[np.bool_]
    rows: int
    row_bytes: int

    @classmethod
    def of(cls, dataset: h5py.Dataset, data: Pixels, advice: str) -> Chunks:
        """The chunks of a dataset in the file that ``data`` holds.

        Raises:
            DamagedError: one is missing, or lies outside the file.
        """
        rows = dataset.chunks[0]
        count = -(-dataset.shape[0] // rows)
        starts, lengths, deflated = np.full(count, -1), np.zeros(count, np.int64), np.zeros(count, np.bool_)
        # In a chunk's mask a bit is set for each filter that was not applied to it.
        mask = sum(1 << number for number, code in enumerate(_filters(dataset)) if code == _DEFLATE)

        def note(chunk: Any) -> None:
            number = chunk.chunk_offset[0] // rows
            starts[number], lengths[number] = chunk.byte_offset, chunk.size
            deflated[number] = mask & ~chunk.filter_mask

        try:
            dataset.id.chunk_iter(note)
        except (OSError, RuntimeError, IndexError, OverflowError) as error:
            raise DamagedError(f"its chunks can't be found ({error})") from error
        found = cls(data, advice, starts, lengths, deflated, rows, int(np.prod(dataset.shape[1:], dtype=np.int64)))
        wrong = (starts < 0) | (lengths < 0) | (starts > len(data) - lengths)
        wrong |= ~deflated & (lengths != rows * found.row_bytes)
        if wrong.any():
            raise DamagedError(f"chunk {int(wrong.argmax())} is missing, cut short or outside the file")
        return found

    @staticmethod
    def why_not(dataset: h5py.Dataset) -> str:
        """Why a dataset is left to h5py; empty where it need not be. Shuffling bytes of single bytes changes nothing."""
        if dataset.chunks[1:] != dataset.shape[1:] or not set(_filters(dataset)) <= {_DEFLATE, _SHUFFLE}:
            return "its chunks are cut or compressed otherwise than by gzip"
        if -(-dataset.shape[0] // dataset.chunks[0]) > MOST:
            return f"it has more than {MOST:,} chunks"
        return ""

    def read(self, number: int) -> Pixels:
        """A chunk: uint8 (rows, row_bytes). What lies behind the dataset's end in the last one means nothing.

        Raises:
            DamagedError: it can't be decompressed.
        """
        held: Any = self.data[self.starts[number] : self.starts[number] + self.lengths[number]]
        whole = self.rows * self.row_bytes
        try:
            found = np.frombuffer(zlib.decompress(held, bufsize=whole) if self.deflated[number] else held, np.uint8)
            return found.reshape(self.rows, self.row_bytes)
        except (ValueError, zlib.error) as error:
            raise DamagedError(str(error)) from error

    def read_rows(self, indices: Indices, out: Pixels) -> int:
        """Copy rows, all within bounds, to ``out``, uint8 (B, row_bytes); the place in ``indices`` that failed, or -1."""
        order = np.argsort(indices)
        if (loop := compiled_loop()) is not None:
            indices, where = np.ascontiguousarray(indices, np.int64), self.data.ctypes.data
            return loop(order, indices, where, *self[2:], out.ctypes.data)
        number = -1
        for row in order.tolist():
            wanted, place = divmod(int(indices[row]), self.rows)
            if wanted != number:
                number = wanted
                try:
                    chunk = self.read(number)
                except DamagedError:
                    return int(row)
            out[row] = chunk[place]
        return -1


@functools.cache
def compiled_loop() -> Callable[..., int] | None:
    """What reads a batch without the GIL; None where numba or zlib is missing."""
    try:
        from loaders.kernels.chunks import read_rows
    except (ImportError, OSError):
        return None
    return read_rows


def _filters(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
