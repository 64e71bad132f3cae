"""``gpu_mmap``: the file of ``mmap``, on the GPU's side of the bus; see docs/gpu.md."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Protocol

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
# What a way that gathers takes at once, in several batches. Over the bus, 4,096 CIFAR-10 records came at 1.5 times the speed of
# 512, and larger gathers only delay the first batch. In GPU memory a gather costs its launches: the fewer the better.
BUS_GROUP_BYTES = 12 << 20
GPU_GROUP_BYTES = 64 << 20
FUSED = "fused"
_MADV_POPULATE_READ = 22  # Linux 5.14


class GpuMmapStore(MmapStore):
    """The files of ``mmap``; batches are gathered by the GPU, or copied to it, and born there."""

    name = "gpu_mmap"
    paths = ("resident", "zero_copy", "staged", FUSED)
    engines = ("stream",)

    @classmethod
    def check(cls) -> Availability:
        return gpu.availability()

    def reader(self, split: str) -> GpuMmapReader:
        return GpuMmapReader(self, split)

    @property
    def augments(self) -> bool:
        return self.path == FUSED

    def gpu(self) -> Gpu:
        """The device of this store's readers."""
        return CudaGpu()


class Way(Protocol):
    """How batches get to the device.

    Attributes:
        words: what ``path_taken`` says.
    """

    words: str

    def fill(self, indices: Indices, out: torch.Tensor, draws: Draws) -> None:
        """Ask for the pictures at ``indices`` in ``out``, uint8 (B, H, W, C) on the device."""

    def close(self) -> None: ...


class Gathered:
    """Records that the GPU gathers by itself: from its own memory, or over the bus.

    Attributes:
        group_bytes: of pictures that are best gathered at once.
    """

    def __init__(
        self, device: Gpu, records: torch.Tensor, words: str, group_bytes: int, release: Callable[[], object] = lambda: None
    ) -> None:
        self._gpu, self._records, self._release = device, records, release
        self.words, self.group_bytes = words, group_bytes

    def fill(self, indices: Indices, out: torch.Tensor, _: Draws) -> None:
        # On the GPU an index outside would end the process's use of it, and a negative one is outside.
        check_bounds(indices, len(self._records))
        self.gather(self._gpu.upload(indices), out)

    def gather(self, places: torch.Tensor, out: torch.Tensor) -> None:
        """``fill`` for indices that are on the device, int64 (B,), and in the split; does not wait for it."""
        # No kernel of our own: index_select was at 0.8 to 0.9 of a pinned copy's speed over the bus, kernels were slower.
        torch.index_select(self._records, 0, places, out=out.view(len(places), -1))

    def close(self) -> None:
        del self._records
        self._release()


class Staged:
    """Pictures that the CPU gathers, or decodes, and that are copied to the device. ``stream`` does it ahead, by threads."""

    def __init__(self, device: Gpu, read: Callable[[Indices, Pixels, Draws], None]) -> None:
        self._gpu, self._read, self.words = device, read, "staged: read into pinned memory and copied"

    def fill(self, indices: Indices, out: torch.Tensor, draws: Draws) -> None:
        pinned = self._gpu.pinned(tuple(out.shape))
        self._read(indices, pinned.numpy(), draws)
        out.copy_(pinned)

    def close(self) -> None: ...


class GpuMmapReader(MmapReader):
    """Fills tensors of the device; arrays of the host too, by way of the device, for checks.

    Payloads are read from the mapping, without a GPU.
    """

    device = "cuda"
    shares_handle = False  # a mapping goes with what was made of it on the device

    def __init__(self, store: GpuMmapStore, split: str) -> None:
        super().__init__(store, split)
        self.gpu = store.gpu()
        self._way: Way | None = None
        self._way_owner = 0

    @property
    def way(self) -> Way:
        """How batches get to the device; chosen at the first read in this process."""
        if self._way is None or self._way_owner != os.getpid():
            # First: in a forked child it refuses, before anything of the parent's is dropped.
            self.gpu.start()
            self._way, self._way_owner = self._choose(self.handle), os.getpid()
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

    def _close(self, _: Payloads) -> None:
        if self._way is not None and self._way_owner == os.getpid():
            self._way.close()  # before the mapping goes, with its last reference
        self._way = None

    def _choose(self, payloads: Payloads) -> Way:
        """The way asked for by name, else the fastest that holds: resident, then zero-copy, then staged."""
        refused: list[str] = []
        for path in [self.store.path] if self.store.path else ["resident", "zero_copy", "staged"]:
            try:
                way = self._try(path, payloads)
            except DeviceRefused as error:
                self.store.refuse_path(path, str(error))
                refused.append(f"not {path}: {error}")
            else:
                way.words = "; ".join([way.words, *refused])
                return way
        raise PathRefused(self.store.name, "staged", "; ".join(refused))

    def _try(self, path: str, payloads: Payloads) -> Way:
        if path == "staged":
            return Staged(self.gpu, self._on_host)
        if self.content.record_bytes is None:
            raise DeviceRefused("the GPU gathers raw pictures of one size; others are decoded by the CPU")
        if path == "zero_copy":
            return zero_copy(self.gpu, payloads.data)
        way = resident(self.gpu, payloads.data)
        if path == FUSED:
            way.words = f"fused: {way.words}, then cropped and mirrored by the group"
        return way

    def _on_host(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        super().read(indices, out, draws)


def populate(data: Pixels) -> None:
    """Bring the pages of a mapped file, uint8, into memory."""
    start = data.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    size = data.ctypes.data + data.nbytes - start
    libc = ctypes.CDLL(None)
    if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(_MADV_POPULATE_READ)):
        data.reshape(-1)[:: mmap.PAGESIZE].sum()  # an older kernel


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
    return Gathered(device, records, "resident: index_select of the GPU's own memory", GPU_GROUP_BYTES)


def zero_copy(device: Gpu, data: Pixels) -> Gathered:
    """The mapping itself, uint8 (n, record bytes), registered so that the device reads it over the bus.

    Raises:
        DeviceRefused: it takes too much of the machine's memory, or can't be registered.
    """
    total = psutil.virtual_memory().total
    if data.nbytes > REGISTERED_SHARE * total:
        raise DeviceRefused(f"{data.nbytes} bytes are over {REGISTERED_SHARE:.0%} of this machine's {total}")
    populate(data)
    # The mapping is shared: registering a private one hung the process.
    registration = Registration(device, data)
    words = "zero_copy: index_select of the registered mapping"
    return Gathered(device, registration.records, words, BUS_GROUP_BYTES, registration.close)


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
