"""``mmap``: payloads back to back in ``<split>.bin``, mapped and gathered; see docs/formats.md."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from datasets.errors import StoreCorrupt
from datasets.source import Block
from loaders import columns
from loaders.codec import Buffer, Pixels
from loaders.decoding import SCALED, Places
from loaders.mapping import check_bounds, gather, map_bytes
from loaders.order import Draws, Indices
from loaders.store import Sample, Store


class MmapStore(Store):
    """A file of records a split, beginning at its first byte, and ``.npy`` columns beside it."""

    name = "mmap"
    paths: ClassVar[tuple[str, ...]] = (SCALED,)

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        with columns.Columns(self.root, split, self.content) as column, data_file(self.root, split).open("wb") as file:
            for sample in samples:
                file.write(sample.payload)
                column.append(sample.label, len(sample.payload), sample.height, sample.width)
            file.flush()
            os.fsync(file.fileno())

    def write_blocks(self, split: str, blocks: Iterator[Block]) -> None:
        with columns.Columns(self.root, split, self.content) as column, data_file(self.root, split).open("wb") as file:
            for block in blocks:
                file.write(block.pictures.data)
                column.extend(block.labels)
            file.flush()
            os.fsync(file.fileno())

    def reader(self, split: str) -> MmapReader:
        return MmapReader(self, split)


def data_file(root: Path, split: str) -> Path:
    """Where the payloads of a split stand."""
    return root / f"{split}.bin"


class Payloads(NamedTuple):
    """All payloads of a split as bytes, and where each begins.

    Attributes:
        data: uint8 (n, record bytes) where all are equally long, else uint8 (total,).
        offsets: int64 (n + 1,), or None where all are equally long.
        advice: what the kernel was told of the mapping; empty for bytes in RAM.
    """

    data: Pixels
    offsets: Indices | None
    advice: str

    def places(self, indices: Indices) -> Places:
        """Where the payloads at ``indices`` lie."""
        if self.offsets is None:
            check_bounds(indices, len(self.data))
            record_bytes = self.data.shape[1]
            return Places(self.data.reshape(-1), indices * record_bytes, np.full(len(indices), record_bytes))
        check_bounds(indices, len(self.offsets) - 1)
        starts = self.offsets[indices]
        return Places(self.data, starts, self.offsets[indices + 1] - starts)

    def views(self, indices: Indices) -> Sequence[Buffer]:
        """The payloads at ``indices``, as views."""
        check_bounds(indices, len(self.data) if self.offsets is None else len(self.offsets) - 1)
        if self.offsets is None:
            return [self.data[index] for index in indices]
        return [self.data[self.offsets[index] : self.offsets[index + 1]] for index in indices]


def arrange(root: Path, data: Pixels, record_bytes: int | None, offsets: Indices | None, count: int, advice: str) -> Payloads:
    """Lay ``count`` payloads over ``data``, uint8 (total,).

    Raises:
        StoreCorrupt: there are more or fewer bytes than the payloads take.
    """
    wanted = count * record_bytes if record_bytes is not None else int(offsets[-1]) if offsets is not None else 0
    if len(data) != wanted:
        raise StoreCorrupt(root, f"{len(data)} bytes of pictures where {wanted} belong")
    return Payloads(data.reshape(count, record_bytes) if record_bytes is not None else data, offsets, advice)


class MmapReader(columns.ColumnReader[Payloads]):
    """Gathers records of one length straight into the batch; hands out views of others."""

    shares_handle = True

    def _open(self) -> Payloads:
        root, record_bytes = self.store.root, self.content.record_bytes
        offsets = None if record_bytes is not None else self.offsets
        try:
            data, advice = self._bytes(data_file(root, self.split))
        except (OSError, ValueError) as error:
            raise StoreCorrupt(root, f"{self.split}.bin can't be read ({error})") from None
        return arrange(root, data, record_bytes, offsets, len(self), advice)

    def _bytes(self, file: Path) -> tuple[Pixels, str]:
        return map_bytes(file)

    @property
    def path_taken(self) -> str:
        way = "np.take" if self.content.record_bytes is not None else "views"
        return f"{way} of the mapping, {self.handle.advice}"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        return self.handle.views(indices)

    def places(self, indices: Indices) -> Places:
        return self.handle.places(indices)

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        if self.content.record_bytes is not None:
            gather(self.handle.data, indices, out)
        else:
            super().read(indices, out, draws)
