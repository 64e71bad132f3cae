"""``zarr``: one Zarr group a store (format 3, on the local disk), not compressed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from datasets.errors import SampleCorrupt, StoreCorrupt
from loaders import columns
from loaders.codec import Buffer, Pixels
from loaders.mapping import check_bounds
from loaders.order import Draws, Indices
from loaders.store import Sample, Store

# Zarr's performance guide: chunks of at least a megabyte. Measured for shuffled batches of 256 CIFAR pictures, warm: chunks of
# 1 MiB read 11 to 13 thousand images/s, of 16 pictures 3.9, of one picture in shards of a thousand 2.5 (zarr 3.1.6).
_CHUNK_BYTES = 1 << 20
# Encoded pictures are read one by one, and a chunk is read whole.
_BYTES_CHUNK = 1 << 16
_SLAB_BYTES = 16 << 20


class ZarrStore(Store):
    """``<split>.zarr``: ``raw`` of one size as (n, H, W, C), other payloads back to back; ``.npy`` columns beside it."""

    name = "zarr"

    def folder(self, split: str) -> Path:
        """The array of a split."""
        return self.root / f"{split}.zarr"

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        record = self.content.record_bytes
        with columns.Columns(self.root, split, self.content) as column, tempfile.TemporaryFile(dir=self.root) as spool:
            # Bytes back to back need their total first; pictures of one size are written by the slab as well.
            total = 0
            for sample in samples:
                spool.write(sample.payload)
                column.append(sample.label, len(sample.payload), sample.height, sample.width)
                total += len(sample.payload)
            spool.seek(0)
            if record is None:
                array = self._array(split, (total,), (min(max(total, 1), _BYTES_CHUNK),))
                _copy(spool, array, 1, ())
            else:
                assert self.content.shape is not None
                rows = max(1, _CHUNK_BYTES // record)
                count = self.content.counts[split]
                array = self._array(split, (count, *self.content.shape), (min(rows, count), *self.content.shape))
                _copy(spool, array, record, self.content.shape)
        os.sync()  # one call for all its files

    def _array(self, split: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
        shutil.rmtree(self.folder(split), ignore_errors=True)
        return zarr.create_array(str(self.folder(split)), shape=shape, chunks=chunks, dtype="uint8", compressors=None)

    def reader(self, split: str) -> ZarrReader:
        return ZarrReader(self, split)


def _copy(spool: Any, array: Any, record: int, shape: tuple[int, ...]) -> None:
    """Fill the array from ``spool``, whole chunks at a time."""
    step = max(1, _SLAB_BYTES // (record * array.chunks[0])) * array.chunks[0]
    for start in range(0, array.shape[0], step):
        slab = np.frombuffer(spool.read(step * record), np.uint8).reshape(-1, *shape)
        array[start : start + len(slab)] = slab


class ZarrReader(columns.ColumnReader[Any]):
    """Reads a batch by one orthogonal selection in ascending order; encoded pictures a slice each."""

    store: ZarrStore

    def _open(self) -> Any:
        try:
            array = zarr.open_array(str(self.store.folder(self.split)), mode="r")
        except Exception as error:  # a damaged description fails in many ways
            raise StoreCorrupt(self.store.root, f"{self.split}.zarr can't be opened ({error})") from None
        wanted = len(self) if self.content.record_bytes is not None else int(self.offsets[-1])
        if array.shape[0] != wanted:
            raise StoreCorrupt(self.store.root, f"{self.split}.zarr is {array.shape[0]} long where {wanted} belongs")
        return array

    @property
    def path_taken(self) -> str:
        return "zarr orthogonal selection" if self.content.record_bytes is not None else "zarr slices"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        if self.content.record_bytes is not None:
            return list(self._records(indices).reshape(len(indices), self.content.record_bytes))
        return [self._payload(int(index)) for index in indices]

    def _records(self, indices: Indices) -> Pixels:
        ascending, place = np.unique(indices, return_inverse=True)
        try:
            found: Pixels = self.handle.oindex[ascending]
        except Exception as error:  # a chunk that is missing or cut short fails in many ways
            raise StoreCorrupt(self.store.root, f"{self.split}.zarr can't be read ({error})") from error
        return found[place]

    def _payload(self, index: int) -> Pixels:
        try:
            payload: Pixels = self.handle[int(self.offsets[index]) : int(self.offsets[index + 1])]
        except Exception as error:
            raise SampleCorrupt(self.store.root, self.split, index, f"zarr can't read it ({error})") from error
        return payload

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        if self.content.record_bytes is not None:
            check_bounds(indices, len(self))
            np.copyto(out, self._records(indices))
        else:
            super().read(indices, out, draws)
