"""``lmdb``: one LMDB environment a split, a key a picture; read by the batch under one transaction."""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb

from datasets.errors import RoomError, SampleCorrupt, StoreCorrupt
from loaders import columns
from loaders.codec import Buffer
from loaders.mapping import check_bounds
from loaders.order import Indices
from loaders.store import Sample, Store

# LMDB's map is the most that a file may grow to; on Linux it takes address space, not disk.
_MAP_BYTES = 1 << 40
_COMMIT_SAMPLES = 5000


class LmdbStore(Store):
    """``<split>.lmdb``: keys are indices (8 bytes, big-endian, so in order), values payloads; ``.npy`` columns beside it."""

    name = "lmdb"

    def file(self, split: str) -> Path:
        """The environment of a split, one file."""
        return self.root / f"{split}.lmdb"

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        with columns.Columns(self.root, split, self.content) as column, self._writing(split) as environment:
            try:
                _put(environment, column, samples)
            except lmdb.DiskError as error:
                raise RoomError(self.root, OSError(28, str(error))) from error

    def _writing(self, split: str) -> lmdb.Environment:
        # Nothing but one flush at the end: what a kill cuts short is packed again.
        return lmdb.open(
            str(self.file(split)), _MAP_BYTES, subdir=False, lock=False, sync=False, metasync=False, writemap=False
        )

    def reader(self, split: str) -> LmdbReader:
        return LmdbReader(self, split)


def _key(index: int) -> bytes:
    return struct.pack(">Q", index)


def _put(environment: lmdb.Environment, column: columns.Columns, samples: Iterator[Sample]) -> None:
    transaction = environment.begin(write=True, buffers=True)
    for index, sample in enumerate(samples):
        transaction.put(_key(index), sample.payload, append=True)
        column.append(sample.label, len(sample.payload), sample.height, sample.width)
        if index % _COMMIT_SAMPLES == _COMMIT_SAMPLES - 1:
            transaction.commit()
            transaction = environment.begin(write=True, buffers=True)
    transaction.commit()
    environment.sync(True)


class _Environment:
    """An open environment, closed when its last reader drops it."""

    def __init__(self, file: Path) -> None:
        # py-lmdb's manual: no lock where nobody writes; no read-ahead where the reads are random.
        self.environment = lmdb.open(
            os.fspath(file), subdir=False, readonly=True, lock=False, readahead=False, meminit=False, create=False
        )
        # LMDB maps pages that a file cut short has not; touching one would end the process.
        pages = self.environment.info()["last_pgno"] + 1
        if file.stat().st_size < pages * self.environment.stat()["psize"]:
            raise lmdb.CorruptedError("it is cut short")


# LMDB opens a file once in a process: its readers share it. By device and inode, so that a store packed anew is another.
_ENVIRONMENTS: weakref.WeakValueDictionary[tuple[int, int], _Environment] = weakref.WeakValueDictionary()


def _environment(file: Path) -> _Environment:
    found = file.stat()
    key = found.st_dev, found.st_ino
    environment = _ENVIRONMENTS.get(key)
    if environment is None:
        environment = _ENVIRONMENTS[key] = _Environment(file)
    return environment


class _Open(NamedTuple):
    environment: _Environment
    transaction: lmdb.Transaction
    cursor: lmdb.Cursor


class LmdbReader(columns.ColumnReader[_Open]):
    """One read transaction while it is open; a batch's values are looked up in one call, and come as views of the map."""

    store: LmdbStore
    # A mapping without locks or a place of its own; and a child could not open what its parent has open.
    inherits_handle = True

    def _open(self) -> _Open:
        try:
            environment = _environment(self.store.file(self.split))
            transaction = environment.environment.begin(buffers=True)
        except (OSError, lmdb.Error) as error:
            raise StoreCorrupt(self.store.root, f"{self.split}.lmdb can't be opened ({error})") from None
        return _Open(environment, transaction, transaction.cursor())

    def _close(self, handle: _Open) -> None:
        handle.cursor.close()
        handle.transaction.abort()

    @property
    def path_taken(self) -> str:
        return "lmdb getmulti, a batch a call"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        try:
            found = self.handle.cursor.getmulti([_key(int(index)) for index in indices])
        except lmdb.Error as error:
            raise StoreCorrupt(self.store.root, f"{self.split}.lmdb can't be read ({error})") from error
        if len(found) != len(indices):
            raise self._missing(indices)
        return [value for _, value in found]

    def _missing(self, indices: Indices) -> SampleCorrupt:
        index = next(int(index) for index in indices if self.handle.transaction.get(_key(int(index))) is None)
        return SampleCorrupt(self.store.root, self.split, index, "its key is missing")
