"""Stores broken on purpose, each with one fault over the sound files of ``mmap``. Needs no torch, so that it travels fast."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from loaders.backends.mmap import MmapReader, MmapStore, Payloads, data_file
from loaders.codec import Buffer, Pixels
from loaders.order import Draws, Indices
from loaders.store import Labels, Reader


class Broken(MmapStore):
    """The files of ``mmap``, handed to a reader with one fault."""

    name = "broken"
    kind: ClassVar[type[Reader[Any]]]

    def reader(self, split: str) -> Any:
        return self.kind(self, split)


class OffByOneReader(MmapReader):
    """Hands out the next record."""

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(np.where((indices >= 0) & (indices < len(self)), (indices + 1) % len(self), indices), out, draws)


class SwappedLabelsReader(MmapReader):
    """Takes the first class for the second, and the second for the first."""

    @cached_property
    def labels(self) -> Labels:
        return np.array([1, 0, 2])[super().labels]


class OrderIgnoredReader(MmapReader):
    """Reads in the order of the file, as is fastest."""

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(np.sort(indices), out, draws)


class ChannelsSwappedReader(MmapReader):
    """Delivers BGR, as OpenCV does."""

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(indices, out, draws)
        out[:] = out[..., ::-1].copy()


class LastBatchDroppedReader(MmapReader):
    """Counts whole batches only."""

    def __len__(self) -> int:
        return super().__len__() // 8 * 8

    @cached_property
    def labels(self) -> Labels:
        return MmapReader(self.store, self.split).labels[: len(self)]

    def _open(self) -> Payloads:
        whole = MmapReader(self.store, self.split).handle
        return whole._replace(data=whole.data[: len(self)])


class BufferReusedReader(MmapReader):
    """Keeps the caller's batch and writes into it again at the next read."""

    _before: Pixels | None = None

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(indices, out, draws)
        if self._before is not None and self._before.shape == out.shape:
            self._before[:] = out
        self._before = out


class OnePayloadReader(MmapReader):
    """Hands out every payload in the same buffer."""

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        buffer = np.empty(1 << 16, np.uint8)
        held = []
        for payload in super().payloads(indices):
            buffer[: len(payload)] = payload
            held.append(buffer[: len(payload)])
        return held


class WrapsAroundReader(MmapReader):
    """Takes -1 for the last sample, as arrays do."""

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(indices % len(self), out, draws)


class CarriesAllReader(MmapReader):
    """Pickles with the pictures in it."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "bytes": np.asarray(self.handle.data).tobytes()}


class _Position:
    """An open file, and where its owner believes it to stand."""

    def __init__(self, file: int) -> None:
        self.file, self.at = file, 0


class StaleAfterForkReader(Reader[_Position]):
    """Reads an open file in sequence and seeks only where it must; a forked child goes on with its parent's file."""

    inherits_handle = True

    def _open(self) -> _Position:
        return _Position(os.open(data_file(self.store.root, self.split), os.O_RDONLY))

    def _close(self, handle: _Position) -> None:
        os.close(handle.file)

    @cached_property
    def labels(self) -> Labels:
        labels: Labels = np.load(self.store.root / f"{self.split}.labels.npy")
        return labels

    @property
    def sizes(self) -> Any:
        raise NotImplementedError

    @property
    def path_taken(self) -> str:
        return "read of one open file"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(indices)
        return [self._payload(int(index)) for index in indices]

    def _payload(self, index: int) -> bytes:
        handle, length = self.handle, self.content.record_bytes or 0
        if handle.at != index:
            os.lseek(handle.file, index * length, os.SEEK_SET)
        handle.at = index + 1
        return os.read(handle.file, length)


class OffByOne(Broken):
    """See ``OffByOneReader``."""

    kind = OffByOneReader


class SwappedLabels(Broken):
    """See ``SwappedLabelsReader``."""

    kind = SwappedLabelsReader


class OrderIgnored(Broken):
    """See ``OrderIgnoredReader``."""

    kind = OrderIgnoredReader


class StaleAfterFork(Broken):
    """See ``StaleAfterForkReader``."""

    kind = StaleAfterForkReader


class ChannelsSwapped(Broken):
    """See ``ChannelsSwappedReader``."""

    kind = ChannelsSwappedReader


class LastBatchDropped(Broken):
    """See ``LastBatchDroppedReader``."""

    kind = LastBatchDroppedReader


class BufferReused(Broken):
    """See ``BufferReusedReader``."""

    kind = BufferReusedReader


class OnePayload(Broken):
    """See ``OnePayloadReader``."""

    kind = OnePayloadReader


class WrapsAround(Broken):
    """See ``WrapsAroundReader``."""

    kind = WrapsAroundReader


class CarriesAll(Broken):
    """See ``CarriesAllReader``."""

    kind = CarriesAllReader
