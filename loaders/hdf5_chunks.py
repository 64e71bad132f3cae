"""Chunks of an HDF5 dataset as they lie in the file, decompressed by zlib: off the GIL and outside HDF5's one lock."""

from __future__ import annotations

import zlib

import h5py
import numpy as np

from loaders.codec import Pixels

_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


class ChunkDamagedError(OSError):
    """A chunk can't be read, or not be decompressed. Callers add whose it was."""


class Chunks:
    """The chunks of a uint8 dataset that is cut along its first axis only.

    Attributes:
        rows: of the dataset, in each chunk. row_bytes: of one row.
    """

    def __init__(self, data: h5py.Dataset) -> None:
        self._id = data.id
        self._beside = (0,) * (len(data.shape) - 1)
        self.rows: int = data.chunks[0]
        self.row_bytes = int(np.prod(data.shape[1:], dtype=np.int64))
        # In a chunk's mask a bit is set for each filter that was not applied to it.
        self._deflated = 0
        for number, code in enumerate(_filters(data)):
            if code == _DEFLATE:
                self._deflated = 1 << number

    @staticmethod
    def readable(data: h5py.Dataset) -> bool:
        """Whether its filters are ones that are undone here: gzip. Shuffling bytes of single bytes changes nothing."""
        return bool(data.chunks) and data.chunks[1:] == data.shape[1:] and set(_filters(data)) <= {_DEFLATE, _SHUFFLE}

    def read(self, number: int) -> Pixels:
        """A chunk: uint8 (rows, row_bytes). What lies behind the dataset's end in the last one means nothing.

        Raises:
            ChunkDamagedError: it can't be read.
        """
        try:
            mask, stored = self._id.read_direct_chunk((number * self.rows, *self._beside))
            whole = self.rows * self.row_bytes
            held = zlib.decompress(stored, bufsize=whole) if self._deflated & ~mask else stored
            return np.frombuffer(held, np.uint8).reshape(self.rows, self.row_bytes)
        except (OSError, RuntimeError, KeyError, ValueError, zlib.error) as error:
            raise ChunkDamagedError(str(error)) from error


def _filters(data: h5py.Dataset) -> list[int]:
    properties = data.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
