"""``lmdb``: one LMDB environment a split, a key a picture; read by the batch under one transaction."""

from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

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


Release = Callable[[], object]


class _Shared:
    """One file's environment and how many readers read by it: LMDB opens a file once in a process."""

    # By device and inode, so that a store packed anew is another.
    opened: ClassVar[dict[tuple[int, int], _Shared]] = {}
    # Held over opening and closing: one under way makes the other fail. A finalizer may come while this thread holds it.
    lock = threading.RLock()

    def __init__(self, file: Path) -> None:
        # py-lmdb's manual: no lock where nobody writes; no read-ahead where the reads are random.
        self.environment = lmdb.open(
            os.fspath(file), subdir=False, readonly=True, lock=False, readahead=False, meminit=False, create=False
        )
        self.readers = 0
        # LMDB maps pages that a file cut short has not; touching one would end the process.
        pages = self.environment.info()["last_pgno"] + 1
        if file.stat().st_size < pages * self.environment.stat()["psize"]:
            self.environment.close()
            raise lmdb.CorruptedError("it is cut short")

    @classmethod
    def acquire(cls, file: Path, reader: LmdbReader) -> tuple[lmdb.Environment, Release]:
        """The environment, and what lets go of it: a call, or the end of ``reader``."""
        with cls.lock:
            found = file.stat()
            key = found.st_dev, found.st_ino
            if key not in cls.opened:
                cls.opened[key] = cls(file)
            cls.opened[key].readers += 1
            return cls.opened[key].environment, weakref.finalize(reader, cls._release, key)

    @classmethod
    def _release(cls, key: tuple[int, int]) -> None:
        with cls.lock:
            cls.opened[key].readers -= 1
            if not cls.opened[key].readers:
                cls.opened.pop(key).environment.close()


# A child must not inherit it from a thread that the child has not.
os.register_at_fork(before=_Shared.lock.acquire, after_in_parent=_Shared.lock.release, after_in_child=_Shared.lock.release)


class _Open(NamedTuple):
    transaction: lmdb.Transaction
    cursor: lmdb.Cursor
    release: Release


class LmdbReader(columns.ColumnReader[_Open]):
    """One read transaction while it is open; a batch's values are looked up in one call, and come as views of the map."""

    store: LmdbStore
    # A mapping without locks or a place of its own; and a child could not open what its parent has open.
    inherits_handle = True

    def _open(self) -> _Open:
        try:
            environment, release = _Shared.acquire(self.store.file(self.split), self)
            transaction = environment.begin(buffers=True)
        except (OSError, lmdb.Error) as error:
            raise StoreCorrupt(self.store.root, f"{self.split}.lmdb can't be opened ({error})") from None
        return _Open(transaction, transaction.cursor(), release)

    def _close(self, handle: _Open) -> None:
        handle.cursor.close()
        handle.transaction.abort()
        handle.release()

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
