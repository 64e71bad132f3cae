"""The contract of a backend: a ``Store`` is written once and read by ``Reader``s, in any process."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from datasets.errors import PathRefused, SampleCorrupt, UnknownName
from datasets.source import Block
from loaders import codec, decoding, sizing
from loaders.codec import Buffer, Pixels
from loaders.decoding import Places
from loaders.manifest import MANIFEST, CodecName, Content
from loaders.order import Draws, Indices

Labels = npt.NDArray[np.int64]
Sizes = npt.NDArray[np.int32]
Handle = TypeVar("Handle")


class Sample(NamedTuple):
    """One picture as a codec holds it.

    Attributes:
        payload: the codec's bytes: pixels of ``raw`` (height x width x channels), a file of ``png`` and ``jpeg``.
        label: class index.
        height, width: in pixels.
    """

    payload: bytes | memoryview
    label: int
    height: int
    width: int


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here; where not, why, and what would help."""

    ok: bool
    reason: str = ""
    remedy: str = ""


class Store(ABC):
    """One data set packed in one format: a folder, and for a database a table too.

    Args:
        root: the store's folder.
        content: what it holds or is to hold.
        path: the code path asked for by name, one of ``paths``; None leaves the choice to the store.
        server: where the store lives in a database server, how to reach it; None for the embedded one.
    """

    name: ClassVar[str]
    codecs: ClassVar[tuple[CodecName, ...]] = ("raw", "png", "jpeg")
    paths: ClassVar[tuple[str, ...]] = ()
    engines: ClassVar[tuple[str, ...]] = ("torch", "threads")
    """Which engines can read it, the usual one first."""
    whole: ClassVar[bool] = False
    """Whether a split is always read whole, also where a part of it is asked for."""

    def __init__(self, root: Path, content: Content, *, path: str | None = None, server: str | None = None) -> None:
        if path is not None and path not in self.paths:
            raise UnknownName(f"path of {self.name}", path, self.paths)
        self.root, self.content, self.path, self.server = root, content, path, server

    @classmethod
    def check(cls) -> Availability:
        """Whether this backend can run here; cheap, and without side effect."""
        return Availability(True)

    @classmethod
    def refuses(cls, content: Content) -> str:
        """Why this format can't hold ``content``; empty where it can."""
        takes = " or ".join(cls.codecs)
        return "" if content.codec in cls.codecs else f"it holds {takes}, not {content.codec}"

    @property
    def augments(self) -> bool:
        """Whether its training batches come cropped and mirrored, and are only to be normalised."""
        return False

    @property
    def options(self) -> dict[str, str]:
        """What the manifest says besides: how this store was laid out. No secrets."""
        return {}

    @abstractmethod
    def write(self, split: str, samples: Iterator[Sample]) -> None:
        """Write ``content.counts[split]`` samples, in order, into ``root``; everything flushed when it returns."""

    def write_blocks(self, split: str, blocks: Iterator[Block]) -> None:
        """``write`` for ``raw`` pictures of one size that come many at a time; override it where they can be written so."""
        self.write(split, (sample for block in blocks for sample in _samples(block)))

    @abstractmethod
    def reader(self, split: str) -> Reader[Any]:
        """A reader of one split; cheap: handles open at the first read, in the process that reads."""

    def present(self) -> bool:
        """Whether what the manifest describes is still there; a database may have lost its table."""
        return True

    def publish(self, root: Path) -> None:
        """Move the finished store from its place of packing to ``root``, replacing what stands there."""
        if root.exists():
            # First what makes it a store: a kill amid the rest must not leave one that opens.
            (root / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(root)
        self.root.replace(root)
        self.root = root

    def remove(self) -> None:
        """Delete the store and all it owns."""
        shutil.rmtree(self.root, ignore_errors=True)

    def store_bytes(self) -> int:
        """Bytes the store takes: disk blocks of its files, or the database's own figure."""
        return sum(file.stat().st_blocks * 512 for file in self.root.rglob("*") if file.is_file())

    def refuse_path(self, path: str, reason: str) -> None:
        """Raise ``PathRefused`` where ``path`` was asked for by name; else return, and the caller falls back."""
        if self.path == path:
            raise PathRefused(self.name, path, reason)


def _samples(block: Block) -> Iterator[Sample]:
    _, height, width, _ = block.pictures.shape
    for picture, label in zip(block.pictures, block.labels.tolist(), strict=True):
        yield Sample(picture.data.cast("B"), label, height, width)


class Reader(ABC, Generic[Handle]):
    """An open store, one split, in one process. Survives fork and spawn: it travels as its location and reopens.

    Subclasses give ``_open``, ``_close``, ``payloads`` and ``path_taken``, and ``read`` where the format allows better
    than one payload at a time. A reader serves one thread at a time.

    Attributes:
        device: where its batches are born.
        inherits_handle: whether a forked child may use the handle of its parent (plain memory may, connections may not).
        shares_handle: whether several threads may read by one handle (plain memory and mappings may).
        labels: int64 (n,), mapped or read at the first use.
        sizes: int32 (n, 2), (height, width) in pixels; only where sizes differ.
        path_taken: the code path that serves the reads, in words.
        copies: whether to read is only to copy, nothing being decoded, resized or decompressed: bound by memory, not by cores.
    """

    device: ClassVar[str] = "cpu"
    inherits_handle: ClassVar[bool] = False
    shares_handle: ClassVar[bool] = False

    def __init__(self, store: Store, split: str) -> None:
        self.store, self.split = store, split
        self.content = store.content
        self._scaled = store.path == decoding.SCALED
        if self._scaled and (reason := decoding.why_not_scaled(self.content)):
            raise PathRefused(store.name, decoding.SCALED, reason)
        self._handle: Handle | None = None
        self._owner = 0

    def __len__(self) -> int:
        return self.content.counts[self.split]

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["store"], state["split"])  # type: ignore[misc]

    @property
    def handle(self) -> Handle:
        """The heavy handle, opened in this process: one inherited over a fork is left alone and opened anew."""
        if self._handle is None or (self._owner != os.getpid() and not self.inherits_handle):
            self._handle, self._owner = self._open(), os.getpid()
        return self._handle

    def twin(self) -> Self:
        """Another reader of the same split, for another thread of this process; memory and mappings are shared."""
        other = type(self)(self.store, self.split)
        if self.shares_handle:
            other._handle, other._owner = self.handle, self._owner  # noqa: SLF001 - of its own class
        return other

    @abstractmethod
    def _open(self) -> Handle:
        """Open files, mappings, connections."""

    def _close(self, handle: Handle) -> None:
        """Release what ``_open`` made; most handles close by being dropped."""

    @property
    @abstractmethod
    def labels(self) -> Labels: ...

    @property
    @abstractmethod
    def sizes(self) -> Sizes: ...

    @property
    @abstractmethod
    def path_taken(self) -> str: ...

    @property
    def copies(self) -> bool:
        return self.content.codec == "raw" and self.content.shape is not None

    @property
    def decoder(self) -> str:
        """What makes pictures of payloads, in words; empty where payloads are pixels. Makes it ready to be used."""
        return decoding.words(self.content, self._scaled)

    def labels_at(self, indices: Indices) -> Labels:
        """The labels of a batch: int64 (B,). Ask for those of the batch that was just read: they may have come with it."""
        return np.asarray(self.labels[indices], dtype=np.int64)

    def sizes_at(self, indices: Indices) -> Sizes:
        """The sizes of a batch: int32 (B, 2), (height, width) in pixels; likewise."""
        return np.asarray(self.sizes[indices], dtype=np.int32)

    @abstractmethod
    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        """The payloads at ``indices``, in that order; valid until the next call or ``close``.

        Args:
            indices: int64 (B,), each in [0, len(self)); any order, repeats allowed.

        Raises:
            IndexError: an index is not in [0, len(self)). SampleCorrupt: a sample can't be read.
        """

    def places(self, indices: Indices) -> Places:
        """The payloads at ``indices`` as places in one buffer: override it where they lie in one, or can be put there at once.

        As ``payloads`` in all else.
        """
        return Places.of(self.payloads(indices))

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        """Fill ``out`` with the pictures at ``indices``, in that order.

        Args:
            indices: int64 (B,), each in [0, len(self)); any order, repeats allowed.
            out: uint8 (B, H, W, C), C-contiguous; RGB or grey, not normalised. Owned by the caller.
            draws: what crops are drawn from; unused where all pictures have one size.

        Raises:
            IndexError: an index is not in [0, len(self)).
            SampleCorrupt: names the sample's index and the store; ``out`` is then undefined.

        Source: one call a batch, after torch.utils.data's ``__getitems__``.
        """
        places = self.places(indices)
        sizes = self.sizes_at(indices) if self.content.shape is None else None
        for row in decoding.fill(self.content, places, sizes, indices, out, draws, self._scaled):
            try:
                size = None if sizes is None else sizes[row]
                self._fill(places.payload(row), int(indices[row]), size, out[row], draws)
            except codec.UndecodableError as error:
                raise SampleCorrupt(self.store.root, self.split, int(indices[row]), str(error)) from error

    def _fill(self, payload: Buffer, index: int, size: Sizes | None, out: Pixels, draws: Draws) -> None:
        if size is None:
            codec.decode_into(self.content.codec, payload, out)
            return
        height, width = size
        picture = codec.decode(self.content.codec, payload, int(height), int(width), self.content.channels)
        sizing.fit(picture, index, draws, out)

    def close(self) -> None:
        """Release the handle, if this process opened it; the next read opens it again."""
        if self._handle is not None and self._owner == os.getpid():
            self._close(self._handle)
        self._handle = None
