"""``hdf5``: one ``.h5`` file a store, read by the contiguous data's place in the file or by h5py; see docs/formats.md."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np

from datasets.errors import SampleCorrupt, StoreCorrupt
from loaders.backends.mmap import Payloads, arrange
from loaders.codec import Buffer, Pixels
from loaders.decoding import Places
from loaders.hdf5_chunks import Chunks, DamagedError, compiled_loop
from loaders.lazy import lazy
from loaders.manifest import CodecName
from loaders.mapping import check_bounds, gather, map_bytes
from loaders.order import Draws, Indices
from loaders.store import Labels, Reader, Sample, Sizes, Store

FILE = "store.h5"
_SLAB_BYTES = 16 << 20

# What HDF5 may still have to write when a file is closed: its own structures, at most as many as its cache holds.
_RESERVE_BYTES = 256 << 10
_CHUNK_ENTRY_BYTES = 128
_METADATA_CACHE_BYTES = 32 << 20


class Hdf5Store(Store):
    """``raw`` of one size: ``/<split>/images`` (n, H, W, C). Else ``bytes`` (total,) and ``offsets`` (n + 1,).

    Always ``labels`` (n,); ``sizes`` (n, 2) where sizes differ.
    """

    name = "hdf5"
    paths: ClassVar[tuple[str, ...]] = ("offset", "h5py")
    layout: ClassVar[dict[str, Any]] = {}
    chunk_bytes: ClassVar[int] = 0
    """Of a chunk of pictures, about; 0 is one picture."""

    @property
    def file(self) -> Path:
        """The HDF5 file."""
        return self.root / FILE

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        with self._writing(split) as file:
            group = file.create_group(split)
            group.attrs["classes"] = list(self.content.classes)
            meta = (
                self._write_records(group, split, samples) if self.content.record_bytes else self._write_bytes(group, samples)
            )
            group["labels"] = np.array([label for label, _, _ in meta], dtype=np.int64)
            if self.content.shape is None:
                group["sizes"] = np.array([size for _, *size in meta], dtype=np.int32)
        with self.file.open("rb") as written:
            os.fsync(written.fileno())

    @contextlib.contextmanager
    def _writing(self, split: str) -> Iterator[h5py.File]:
        """The file, open for writing, on a disk that has room to close it.

        On a full disk HDF5 can neither close a file nor let go of it: so a reserve is kept until all is written.
        """
        reserve = self.root / "reserve"
        chunks = self.content.counts[split] if self.layout else 0
        with reserve.open("wb") as held:
            os.posix_fallocate(held.fileno(), 0, _RESERVE_BYTES + min(chunks * _CHUNK_ENTRY_BYTES, _METADATA_CACHE_BYTES))
        # v110: from there on metadata carry checksums. HDF5 2.0 crashed on metadata without them when a bit was turned.
        # No cache of chunks: each is written once.
        with h5py.File(self.file, "a", libver=("v110", "v110"), rdcc_nbytes=0) as file:
            try:
                yield file
                file.flush()
            finally:
                reserve.unlink()

    def _write_records(self, group: h5py.Group, split: str, samples: Iterator[Sample]) -> list[tuple[int, int, int]]:
        assert self.content.shape is not None
        shape = (self.content.counts[split], *self.content.shape)
        rows = min(max(1, self.chunk_bytes // max(1, math.prod(self.content.shape))), shape[0])
        chunks = {"chunks": (rows, *self.content.shape), **self.layout} if self.layout else {}
        images = group.create_dataset("images", shape=shape, dtype=np.uint8, **chunks)
        meta: list[tuple[int, int, int]] = []
        slab: list[Pixels] = []
        for sample in samples:
            meta.append((sample.label, sample.height, sample.width))
            slab.append(np.frombuffer(sample.payload, np.uint8).reshape(self.content.shape))
            # Whole chunks: without a cache a part of one would be compressed twice.
            if len(slab) * slab[0].nbytes >= _SLAB_BYTES and len(slab) % rows == 0:
                _write_slab(images, len(meta), slab)
        _write_slab(images, len(meta), slab)
        return meta

    def _write_bytes(self, group: h5py.Group, samples: Iterator[Sample]) -> list[tuple[int, int, int]]:
        """Spool the payloads, then copy them in: a contiguous dataset must know its length when it is made."""
        meta: list[tuple[int, int, int]] = []
        offsets = [0]
        with tempfile.TemporaryFile(dir=self.root) as spool:
            for sample in samples:
                spool.write(sample.payload)
                meta.append((sample.label, sample.height, sample.width))
                offsets.append(offsets[-1] + len(sample.payload))
            chunks = {"chunks": (min(offsets[-1], 1 << 16),), **self.layout} if self.layout else {}
            data = group.create_dataset("bytes", shape=(offsets[-1],), dtype=np.uint8, **chunks)
            spool.seek(0)
            for start in range(0, offsets[-1], _SLAB_BYTES):
                slab = np.frombuffer(spool.read(_SLAB_BYTES), np.uint8)
                data[start : start + len(slab)] = slab
        group["offsets"] = np.array(offsets, dtype=np.int64)
        return meta

    def reader(self, split: str) -> Reader[Any]:
        """By the fastest path that the file's layout allows, unless another was asked for."""
        if self.path == "h5py":
            return H5pyReader(self, split)
        with self.open() as file:
            data = _data(self, file, split)
            if data.id.get_offset() is not None:
                return OffsetReader(self, split)
            why_not = Chunks.why_not(data)
        if "chunks" in self.paths and not why_not:
            return ChunkReader(self, split)
        self.refuse_path("offset", "its data is in chunks")
        self.refuse_path("chunks", why_not)
        return H5pyReader(self, split)

    def open(self) -> h5py.File:
        """The file, for reading.

        Raises:
            StoreCorrupt: it is missing, cut short, or not HDF5.
        """
        try:
            return h5py.File(self.file, "r")
        except OSError as error:
            raise StoreCorrupt(self.root, f"{FILE} can't be opened ({error})") from None


def _write_slab(images: h5py.Dataset, end: int, slab: list[Pixels]) -> None:
    if slab:
        images[end - len(slab) : end] = np.stack(slab)
        slab.clear()


class Hdf5ChunkedStore(Hdf5Store):
    """A chunk a picture, not compressed: what chunking alone costs."""

    name = "hdf5_chunked"
    codecs: ClassVar[tuple[CodecName, ...]] = ("raw",)
    paths: ClassVar[tuple[str, ...]] = ("chunks", "h5py")
    layout: ClassVar[dict[str, Any]] = {"compression": None}


class Hdf5GzipStore(Hdf5ChunkedStore):
    """A chunk a picture, gzip at h5py's own default level behind the byte shuffle filter."""

    name = "hdf5_gzip"
    layout: ClassVar[dict[str, Any]] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


class Hdf5Gzip64kStore(Hdf5GzipStore):
    """The same with as many pictures to a chunk as fill 64 KiB: better packed, and worse to read at random."""

    name = "hdf5_gzip64k"
    chunk_bytes = 1 << 16


def _data(store: Hdf5Store, file: h5py.File, split: str) -> h5py.Dataset:
    try:
        return file[split]["images" if store.content.record_bytes else "bytes"]
    except KeyError as error:
        raise StoreCorrupt(store.root, f"{FILE} lacks /{split} ({error})") from None


class _Hdf5Columns(Reader[Any]):
    """Labels, sizes and offsets: the file's own datasets, mapped where they are contiguous, as we write them."""

    store: Hdf5Store

    @property
    def copies(self) -> bool:
        return super().copies and not self.store.layout.get("compression")

    def _column(self, name: str, length: int) -> Any:
        with self.store.open() as file:
            try:
                data = file[self.split][name]
                place = data.id.get_offset()
                mapped = place is not None and data.dtype in (np.dtype("<i8"), np.dtype("<i4"))
                column = np.memmap(self.store.file, data.dtype, "r", place, data.shape) if mapped else data[:]
            except (KeyError, OSError, ValueError) as error:
                raise StoreCorrupt(self.store.root, f"/{self.split}/{name} can't be read ({error})") from None
        if len(column) != length:
            raise StoreCorrupt(self.store.root, f"/{self.split}/{name} holds {len(column)} entries where {length} belong")
        return column

    @lazy
    def labels(self) -> Labels:
        labels: Labels = self._column("labels", len(self))
        return labels

    @lazy
    def sizes(self) -> Sizes:
        sizes: Sizes = self._column("sizes", len(self))
        return sizes

    @lazy
    def offsets(self) -> Indices | None:
        """Where payloads begin: int64 (n + 1,), or None where all are equally long."""
        return None if self.content.record_bytes else self._column("offsets", len(self) + 1)


class OffsetReader(_Hdf5Columns):
    """Maps the file and reads the contiguous data where HDF5 says it is."""

    shares_handle = True

    def _open(self) -> Payloads:
        with self.store.open() as file:
            data = _data(self.store, file, self.split)
            offset, length = data.id.get_offset(), data.id.get_storage_size()
        mapped, advice = map_bytes(self.store.file)
        inside = mapped[offset : offset + length]
        return arrange(self.store.root, inside, self.content.record_bytes, self.offsets, len(self), advice)

    @property
    def path_taken(self) -> str:
        return f"contiguous offset, {self.handle.advice}"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        views: Sequence[Buffer] = self.handle.views(indices)
        return views

    def places(self, indices: Indices) -> Places:
        places: Places = self.handle.places(indices)
        return places

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        if self.content.record_bytes is not None:
            gather(self.handle.data, indices, out)
        else:
            super().read(indices, out, draws)


class ChunkReader(_Hdf5Columns):
    """Reads each chunk that a batch lies in once, in the file's order, where HDF5 says that it is in the mapped file."""

    shares_handle = True

    def _open(self) -> Chunks:
        with self.store.open() as file:
            data = _data(self.store, file, self.split)
            wanted = (len(self), *(self.content.shape or ())) if self.offsets is None else (int(self.offsets[-1]),)
            if data.shape != wanted or data.dtype != np.uint8:
                raise StoreCorrupt(self.store.root, f"/{self.split} is {data.dtype} {data.shape} where uint8 {wanted} belongs")
            try:
                return Chunks.of(data, *map_bytes(self.store.file))
            except DamagedError as error:
                raise StoreCorrupt(self.store.root, f"/{self.split}: {error}") from error

    @property
    def path_taken(self) -> str:
        how = "a batch" if self.offsets is None and compiled_loop() is not None else "a chunk"
        return f"chunks in the mapped file, {how} a call, {self.handle.advice}"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        offsets = self.offsets
        if offsets is None:
            return list(self._records(indices, np.empty((len(indices), self.handle.row_bytes), np.uint8)))
        return [self._between(int(index), int(offsets[index]), int(offsets[index + 1])) for index in indices]

    def _between(self, index: int, start: int, stop: int) -> Pixels:
        """The bytes from ``start`` to ``stop``, of a dataset whose rows are bytes."""
        rows = self.handle.rows
        parts = [self._chunk(number, index)[:, 0] for number in range(start // rows, -(-stop // rows))]
        joined = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        place = start % rows
        return joined[place : place + stop - start]

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        record = self.content.record_bytes
        if record is None:
            super().read(indices, out, draws)
            return
        check_bounds(indices, len(self))
        self._records(indices, out.reshape(len(indices), record))

    def _records(self, indices: Indices, out: Pixels) -> Pixels:
        if (failed := self.handle.read_rows(indices, out)) >= 0:
            index = int(indices[failed])
            self._chunk(index // self.handle.rows, index)
            raise SampleCorrupt(self.store.root, self.split, index, "its chunk can't be read")
        return out

    def _chunk(self, number: int, index: int) -> Pixels:
        try:
            chunk: Pixels = self.handle.read(number)
        except DamagedError as error:
            raise SampleCorrupt(self.store.root, self.split, index, f"its chunk can't be read ({error})") from error
        return chunk


class _Open(NamedTuple):
    file: h5py.File
    data: h5py.Dataset


class H5pyReader(_Hdf5Columns):
    """Reads by h5py, a slice a picture."""

    def _open(self) -> _Open:
        file = self.store.open()
        return _Open(file, _data(self.store, file, self.split))

    def _close(self, handle: _Open) -> None:
        handle.file.close()

    @property
    def path_taken(self) -> str:
        return "h5py"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        # One slice a picture: h5py's own selection of many rows took 1.8 times as long on contiguous data of 3 KB rows,
        # and 38 times as long on chunks of one picture (h5py 3.16).
        return [self._payload(int(index)) for index in indices]

    def _payload(self, index: int) -> Buffer:
        offsets = self.offsets
        try:
            payload: Pixels = (
                self.handle.data[index] if offsets is None else self.handle.data[offsets[index] : offsets[index + 1]]
            )
        except OSError as error:
            raise SampleCorrupt(self.store.root, self.split, index, f"h5py can't read it ({error})") from error
        return payload.reshape(-1)
