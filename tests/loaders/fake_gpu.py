"""The process in a GPU's place: the same code as on a device runs, and leaves a log of what it asked for."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datasets.errors import DeviceRefused
from loaders.backends.gpu_mmap import GpuMmapStore
from loaders.codec import Pixels


class ProcessGpu:
    """A ``Gpu`` that is this process.

    Attributes:
        log: what was asked, in order; marks are numbers.
        registered: addresses that are registered now.
        free: bytes that it says are free. refuses: why it registers nothing.
    """

    def __init__(self, free: int = 1 << 40, refuses: str = "") -> None:
        self.device = torch.device("cpu")
        self.free, self.refuses = free, refuses
        self.log: list[tuple[Any, ...]] = []
        self.registered: dict[int, int] = {}
        self._marks = 0
        self._lock = threading.Lock()
        self._where = threading.local()

    def start(self) -> None:
        self._note("start")

    def free_bytes(self) -> int:
        return self.free

    def register(self, data: Pixels) -> torch.Tensor:
        if self.refuses:
            raise DeviceRefused(self.refuses)
        self.registered[data.ctypes.data] = data.nbytes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mapping can't be written
            return torch.from_numpy(data)

    def unregister(self, data: Pixels) -> None:
        self._note("unregister", int(data[-1, -1]))  # a read of an unmapped page would end the process
        del self.registered[data.ctypes.data]

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, 0xAA, dtype=torch.uint8)

    def pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        self._note("pinned", int(np.prod(shape)))
        return torch.full(shape, 0xBB, dtype=torch.uint8)

    def upload(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(numbers.copy())

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        self._where.side = True
        try:
            yield
        finally:
            self._where.side = False

    def mark(self) -> int:
        with self._lock:
            self._marks += 1
            made = self._marks
        self._note("mark", made, "side" if getattr(self._where, "side", False) else "main")
        return made

    def join(self, mark: int, *tensors: torch.Tensor) -> None:
        self._note("join", mark, len(tensors))

    def settle(self, mark: int) -> None:
        self._note("settle", mark)

    def _note(self, *what: Any) -> None:
        self.log.append(what)


class ProcessStore(GpuMmapStore):
    """``gpu_mmap`` on a ``ProcessGpu`` that all its readers share."""

    shared = ProcessGpu()

    def gpu(self) -> ProcessGpu:
        return type(self).shared
