"""``filesystem``: one file a picture in the tree that torchvision's ``ImageFolder`` reads; see docs/formats.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from datasets.errors import SampleCorrupt
from loaders import columns
from loaders.codec import EXTENSION, Buffer, Pixels
from loaders.decoding import SCALED, Places
from loaders.lazy import lazy
from loaders.mapping import check_bounds
from loaders.order import Indices
from loaders.store import Sample, Store

# Of a file that is read with others in one call: a damaged column must not ask for all the memory.
_LARGEST_BYTES = 64 << 20


class FilesystemStore(Store):
    """``<split>/<class>/<index>.<ext>``; ``raw`` pixels stand behind the short header of a PPM (grey: PGM) file."""

    name = "filesystem"
    paths: ClassVar[tuple[str, ...]] = (SCALED,)

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        top = self.root / split
        with columns.Columns(self.root, split, self.content) as column:
            for index, sample in enumerate(samples):
                file = top / self.relative(sample.label, index)
                if not file.parent.exists():
                    file.parent.mkdir(parents=True)
                file.write_bytes(self.header(sample.height, sample.width) + sample.payload)
                column.append(sample.label, len(sample.payload), sample.height, sample.width)
        os.sync()  # one call for all: an fsync for each of a hundred thousand files takes minutes

    def relative(self, label: int, index: int) -> str:
        """The path of a sample below its split."""
        return f"{self.content.classes[label]}/{index:08d}.{self.extension}"

    @property
    def extension(self) -> str:
        """Such as ``ImageFolder`` knows."""
        return "pgm" if self.content.codec == "raw" and self.content.channels == 1 else EXTENSION[self.content.codec]

    def header(self, height: int, width: int) -> bytes:
        """What stands before the payload: the binary PPM's or PGM's header for ``raw``, else nothing."""
        if self.content.codec != "raw":
            return b""
        return b"%s\n%d %d\n255\n" % (b"P5" if self.content.channels == 1 else b"P6", width, height)

    def reader(self, split: str) -> FilesystemReader:
        return FilesystemReader(self, split)


class FilesystemReader(columns.ColumnReader[int]):
    """Opens and reads one file a sample, by paths made from the label: no folder is ever listed.

    The handle is the split's open folder, so that each path is resolved from there.
    """

    store: FilesystemStore

    def _open(self) -> int:
        return os.open(self.store.root / self.split, os.O_RDONLY | os.O_DIRECTORY)

    def _close(self, handle: int) -> None:
        os.close(handle)

    @property
    def path_taken(self) -> str:
        return "open and read of each file, " + ("a batch a call" if self._kernel is not None else "a file a call")

    @lazy
    def _kernel(self) -> Callable[..., int] | None:
        """What reads a batch of files without the GIL; None where numba is missing, or where each file has its own header."""
        if self.content.codec == "raw" and self.content.shape is None:
            return None
        try:
            from loaders.kernels.files import read_files
        except ImportError:
            return None
        return read_files

    @lazy
    def _names(self) -> tuple[Pixels, Indices, Pixels]:
        """The classes' folders, back to back; where each ends; what stands behind a file's number."""
        names = [os.fsencode(name) for name in self.content.classes]
        tail = np.frombuffer(f".{self.store.extension}".encode(), np.uint8)
        return np.frombuffer(b"".join(names), np.uint8).copy(), np.cumsum([len(name) for name in names]), tail.copy()

    def places(self, indices: Indices) -> Places:
        check_bounds(indices, len(self))
        found = self._read_at_once(np.ascontiguousarray(indices, np.int64))
        return super().places(indices) if found is None else found

    def _read_at_once(self, indices: Indices) -> Places | None:
        """Files read in one call; None where one of them is not as it was written, and has to be looked at by itself."""
        if self._kernel is None or not len(indices):
            return None
        labels, lengths = np.array(self.labels[indices]), self._lengths(indices)
        if labels.min() < 0 or labels.max() >= len(self.content.classes):
            return None
        if lengths.min() < 0 or lengths.max() > _LARGEST_BYTES:
            return None
        starts = np.cumsum(lengths) - lengths
        buffer = np.empty(int(lengths.sum()) + 1, np.uint8)
        if self._kernel(self.handle, *self._names, labels, indices, buffer.ctypes.data, starts, lengths) < len(indices):
            return None
        return self._behind_headers(Places(buffer, starts, lengths))

    def _lengths(self, indices: Indices) -> Indices:
        """Bytes that each file has to have: int64 (B,)."""
        if (record_bytes := self.content.record_bytes) is not None:
            return np.full(len(indices), record_bytes + len(self._header(0)))
        return self.offsets[indices + 1] - self.offsets[indices]

    def _behind_headers(self, files: Places) -> Places | None:
        if self.content.codec != "raw":
            return files
        header = np.frombuffer(self._header(0), np.uint8)
        found = files.data[:-1].reshape(len(files.starts), -1)[:, : len(header)]
        return Places(files.data, files.starts + len(header), files.lengths - len(header)) if (found == header).all() else None

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        return [self._payload(int(index)) for index in indices]

    def _payload(self, index: int) -> Buffer:
        label = int(self.labels[index])
        if not 0 <= label < len(self.content.classes):
            raise SampleCorrupt(self.store.root, self.split, index, f"its label is {label}")
        relative = self.store.relative(label, index)
        try:
            data = _read_at(self.handle, relative)
        except OSError as error:
            raise SampleCorrupt(self.store.root, self.split, index, f"{relative}: {error.strerror}") from error
        header = self._header(index)
        if not data.startswith(header):
            raise SampleCorrupt(self.store.root, self.split, index, f"{relative} does not begin as it was written")
        return memoryview(data)[len(header) :]

    def _header(self, index: int) -> bytes:
        shape = self.content.shape
        height, width = shape[:2] if shape is not None else map(int, self.sizes[index])
        return self.store.header(height, width)


def _read_at(folder: int, relative: str) -> bytes:
    file = os.open(relative, os.O_RDONLY, dir_fd=folder)
    try:
        data = os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)
    return data
