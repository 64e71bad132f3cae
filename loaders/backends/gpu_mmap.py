"""``gpu_mmap``: the file of ``mmap``, on the GPU's side of the bus; see docs/gpu.md."""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch

from datasets.errors import DeviceRefused, PathRefused, Unavailable
from loaders import gpu
from loaders.backends.mmap import MmapReader, MmapStore, Payloads
from loaders.codec import Pixels
from loaders.gpu import CudaGpu, Gpu
from loaders.mapping import check_bounds
from loaders.order import Draws, Indices
from loaders.store import Availability

# A split may take this part of the GPU's free memory: the rest is the model's.
RESIDENT_SHARE = 0.5
# Registered pages can't be given up: a file that takes more than this part of the machine's memory is not registered.
REGISTERED_SHARE = 0.5
UPLOAD_BYTES = 64 << 20
# A copy to the device waits in a slot while the threads fill others.
SLOTS = 4


class GpuMmapStore(MmapStore):
    """The files of ``mmap``; batches are gathered by the GPU, or copied to it, and born there."""

    name = "gpu_mmap"
    paths = ("resident", "zero_copy", "staged")
    engines = ("stream",)

    @classmethod
    def check(cls) -> Availability:
        return gpu.availability()

    def reader(self, split: str) -> GpuMmapReader:
        return GpuMmapReader(self, split)

    def gpu(self) -> Gpu:
        """The device of this store's readers."""
        return CudaGpu()


class Way(Protocol):
    """How batches get to the device.

    Attributes:
        words: what ``path_taken`` says.
        grouped: gathers several batches as quickly as one; else it takes a batch a call, from several threads at once.
    """

    words: str
    grouped: bool

    def fill(self, indices: Indices, out: torch.Tensor, draws: Draws) -> None:
        """Ask for the pictures at ``indices`` in ``out``, uint8 (B, H, W, C) on the device; does not wait for it."""

    def close(self) -> None: ...


class Gathered:
    """Records that the GPU gathers by itself: from its own memory, or over the bus."""

    grouped = True

    def __init__(self, device: Gpu, records: torch.Tensor, words: str, release: Callable[[], object]) -> None:
        self._gpu, self._records, self.words, self._release = device, records, words, release

    def fill(self, indices: Indices, out: torch.Tensor, _: Draws) -> None:
        # On the GPU an index outside would end the process's use of it, and a negative one is outside.
        check_bounds(indices, len(self._records))
        # No kernel of our own: index_select was at 0.8 to 0.9 of a pinned copy's speed over the bus, kernels were slower.
        torch.index_select(self._records, 0, self._gpu.upload(indices), out=out.view(len(indices), -1))

    def close(self) -> None:
        del self._records
        self._release()


class Ring:
    """Slots of pinned memory; a slot is filled again only after its copy to the device is done."""

    def __init__(self, device: Gpu, slots: int) -> None:
        self._gpu = device
        self._free: queue.SimpleQueue[tuple[torch.Tensor | None, Any]] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put((None, None))

    @contextlib.contextmanager
    def slot(self, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
        """A slot, uint8 ``shape``; what is asked of the current stream inside is what its next user waits for."""
        held, copied = self._free.get()
        mark = None
        try:
            if copied is not None:
                self._gpu.settle(copied)
            size = int(np.prod(shape))
            if held is None or held.numel() < size:
                held = self._gpu.pinned((size,))
            yield held[:size].view(shape)
            mark = self._gpu.mark()
        finally:
            self._free.put((held, mark))


class Staged:
    """Pictures that the CPU gathers, or decodes, into pinned memory, and that are copied from there."""

    grouped = False

    def __init__(self, device: Gpu, fill: Callable[[Indices, Pixels, Draws], None]) -> None:
        self.words = f"staged: a pinned ring of {SLOTS} slots"
        self._fill = fill
        self._ring = Ring(device, SLOTS)

    def fill(self, indices: Indices, out: torch.Tensor, draws: Draws) -> None:
        with self._ring.slot(tuple(out.shape)) as slot:
            self._fill(indices, slot.numpy(), draws)
            out.copy_(slot, non_blocking=True)

    def close(self) -> None:
        del self._ring


class GpuMmapReader(MmapReader):
    """Fills tensors of the device; arrays of the host too, by way of the device, for checks.

    ``staged`` may be read by several threads at once.
    """

    device = "cuda"
    shares_handle = False  # a mapping goes with what was made of it on the device

    def __init__(self, store: GpuMmapStore, split: str) -> None:
        super().__init__(store, split)
        self.gpu = store.gpu()
        self._way: Way | None = None

    @property
    def way(self) -> Way:
        """How batches get to the device; chosen when the store is opened in this process."""
        assert self.handle is not None  # opens
        assert self._way is not None
        return self._way

    @property
    def path_taken(self) -> str:
        return self.way.words

    def read(self, indices: Indices, out: Pixels | torch.Tensor, draws: Draws) -> None:
        way = self.way
        if isinstance(out, torch.Tensor):
            way.fill(indices, out, draws)
            return
        filled = self.gpu.empty(out.shape)
        way.fill(indices, filled, draws)
        np.copyto(out, filled.cpu().numpy())

    def _open(self) -> Payloads:
        self.gpu.start()
        payloads = super()._open()
        self._way = self._choose(payloads)
        return payloads

    def _close(self, _: Payloads) -> None:
        if self._way is not None:
            self._way.close()  # before the mapping goes, with its last reference
            self._way = None

    def _bytes(self, file: Path) -> tuple[Pixels, str]:
        return populated(file), "MAP_POPULATE"

    def _choose(self, payloads: Payloads) -> Way:
        """The way asked for by name, else the fastest that holds: resident, then zero-copy, then staged."""
        refused: list[str] = []
        for path in [self.store.path] if self.store.path else self.store.paths:
            try:
                way = self._try(path, payloads)
            except DeviceRefused as error:
                self.store.refuse_path(path, str(error))
                refused.append(f"not {path}: {error}")
            else:
                way.words = "; ".join([way.words, *refused])
                return way
        raise PathRefused(self.store.name, "staged", "; ".join(refused))

    def _try(self, path: str | None, payloads: Payloads) -> Way:
        if path == "staged":
            return Staged(self.gpu, self._on_host)
        if self.content.record_bytes is None:
            raise DeviceRefused("the GPU gathers raw pictures of one size; others are decoded by the CPU")
        if path == "resident":
            return resident(self.gpu, payloads.data)
        return zero_copy(self.gpu, payloads.data)

    def _on_host(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(indices, out, draws)


def populated(file: Path) -> Pixels:
    """A file mapped shared and read-only, its pages in place: uint8 (size,).

    Never mapped private: registering such a mapping hung the process.
    """
    with file.open("rb") as handle:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapping = mmap.mmap(handle.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
    return np.frombuffer(mapping, np.uint8)


def resident(device: Gpu, data: Pixels) -> Gathered:
    """The whole split, uint8 (n, record bytes), in the device's memory.

    Raises:
        DeviceRefused: it takes more than its share of the free memory, or there is less than was said.
    """
    free = device.free_bytes()
    if data.nbytes > RESIDENT_SHARE * free:
        raise DeviceRefused(f"{data.nbytes} bytes are over {RESIDENT_SHARE:.0%} of the {free} that the GPU has free")
    records = device.empty(data.shape)
    rows = max(1, UPLOAD_BYTES // data.shape[1])
    slot = device.pinned((min(rows, len(data)), data.shape[1]))
    for start in range(0, len(data), rows):
        part = data[start : start + rows]
        np.copyto(slot[: len(part)].numpy(), part)
        records[start : start + rows].copy_(slot[: len(part)])
    return Gathered(device, records, "resident: index_select of the GPU's own memory", lambda: None)


def zero_copy(device: Gpu, data: Pixels) -> Gathered:
    """The mapping itself, uint8 (n, record bytes), registered so that the device reads it over the bus.

    Raises:
        DeviceRefused: it takes too much of the machine's memory, or can't be registered.
    """
    total = psutil.virtual_memory().total
    if data.nbytes > REGISTERED_SHARE * total:
        raise DeviceRefused(f"{data.nbytes} bytes are over {REGISTERED_SHARE:.0%} of this machine's {total}")
    registration = Registration(device, data)
    return Gathered(device, registration.records, "zero_copy: index_select of the registered mapping", registration.close)


class Registration:
    """A registered mapping; undone once, by ``close`` or when it is dropped, and while the mapping still stands."""

    def __init__(self, device: Gpu, data: Pixels) -> None:
        self.records = device.register(data)
        # The finalizer holds ``data``, and so the mapping, until it has run.
        self._undo = weakref.finalize(self, _unregister, device, data, os.getpid())

    def close(self) -> None:
        """Undo it."""
        self._undo()


def _unregister(device: Gpu, data: Pixels, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not touch its parent's registrations, nor CUDA at all
        with contextlib.suppress(Unavailable):
            device.unregister(data)
