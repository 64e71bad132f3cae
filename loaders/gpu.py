"""What an NVIDIA GPU is asked for beside arithmetic: registered mappings, pinned memory, a side stream.

Everything that reads into a GPU goes through a ``Gpu``, so that tests can put the process itself in its place and run the
same code.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from datasets.errors import DeviceRefused, Unavailable
from loaders.codec import Pixels
from loaders.store import Availability

# cuda.h. The driver is asked rather than the runtime: its library has one name, and a refusal leaves no error behind that
# the next operation of torch would report as its own.
REGISTER_MAPPED = 0x02  # CU_MEMHOSTREGISTER_DEVICEMAP
REGISTER_READ_ONLY = 0x08  # CU_MEMHOSTREGISTER_READ_ONLY
READ_ONLY_SUPPORTED = 113  # CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED

REMEDY = "use mmap, or a machine with an NVIDIA GPU and a torch built for CUDA"


class Driver(Protocol):
    """The four calls of the CUDA driver that torch has no words for; each returns a CUDA error code, 0 being success."""

    def attribute(self, which: int, device: int) -> int:
        """The value of a device attribute; 0 where it is unknown to the driver."""

    def register(self, address: int, size: int, flags: int) -> int: ...

    def unregister(self, address: int) -> int: ...

    def device_pointer(self, address: int) -> tuple[int, int]:
        """(code, the address by which the GPU knows registered memory)."""


class CudaDriver:
    """``libcuda.so.1``; a context must be current in the calling thread, which ``CudaGpu.start`` sees to."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceRefused(f"the driver's library can't be loaded ({error})") from None

    def attribute(self, which: int, device: int) -> int:
        value = ctypes.c_int(0)
        code = self._cuda.cuDeviceGetAttribute(ctypes.byref(value), ctypes.c_int(which), ctypes.c_int(device))
        return 0 if code else value.value

    def register(self, address: int, size: int, flags: int) -> int:
        return int(self._cuda.cuMemHostRegister_v2(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_uint(flags)))

    def unregister(self, address: int) -> int:
        return int(self._cuda.cuMemHostUnregister(ctypes.c_void_p(address)))

    def device_pointer(self, address: int) -> tuple[int, int]:
        pointer = ctypes.c_uint64(0)
        code = self._cuda.cuMemHostGetDevicePointer_v2(ctypes.byref(pointer), ctypes.c_void_p(address), ctypes.c_uint(0))
        return int(code), pointer.value


class Gpu(Protocol):
    """A device whose memory batches are born in, and a stream of its own beside the one that trains.

    Attributes:
        device: of the tensors it makes.
    """

    device: torch.device

    def start(self) -> None:
        """Make the device usable in this process.

        Raises:
            Unavailable: there is none, or CUDA was started before this process was forked.
        """

    def free_bytes(self) -> int:
        """Memory of the device that is free."""

    def register(self, data: Pixels) -> torch.Tensor:
        """``data``, uint8 and mapped shared and read-only, as a tensor that the device reads over the bus.

        Raises:
            DeviceRefused: the device or the driver can't; nothing is registered then.
        """

    def unregister(self, data: Pixels) -> None:
        """Undo ``register``, after all that was asked of the device is done; before ``data`` is unmapped."""

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory of the device, uint8, of the current stream.

        Raises:
            DeviceRefused: out of memory.
        """

    def pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Page-locked memory of the host, uint8."""

    def upload(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        """int64 numbers of any shape on the device, without waiting for it."""

    def beside(self) -> contextlib.AbstractContextManager[Any]:
        """What is asked inside goes to the side stream, in any thread."""

    def mark(self) -> Any:
        """A point on the current stream."""

    def join(self, mark: Any, *tensors: torch.Tensor) -> None:
        """Let the current stream wait for ``mark``, and keep ``tensors``, made beside, until it is done with them."""

    def settle(self, mark: Any) -> None:
        """Wait, in this thread, until ``mark`` is reached."""


class CudaGpu:
    """The current CUDA device."""

    def __init__(self, driver: Callable[[], Driver] = CudaDriver) -> None:
        self.device = torch.device("cuda")
        self._driver = driver
        self._side: torch.cuda.Stream | None = None

    def start(self) -> None:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            torch.empty(1, device=self.device)  # makes the context, which the driver's calls need in this thread
        except (RuntimeError, AssertionError) as error:
            # torch's words are "Cannot re-initialize CUDA in forked subprocess", and others where there is no GPU.
            if "forked" in str(error):
                reason = "CUDA was started before this process was forked from another"
                raise Unavailable("gpu_mmap", reason, "read in the process that started CUDA, without workers") from None
            raise Unavailable("gpu_mmap", f"torch can't use a GPU ({error})", REMEDY) from None

    def free_bytes(self) -> int:
        # What torch's allocator keeps for itself and does not use is as free as the rest.
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def register(self, data: Pixels) -> torch.Tensor:
        torch.cuda.synchronize()
        driver = self._driver()
        # A mapping of a file can't be written by the GPU: without the read-only flag the driver refuses it.
        if not driver.attribute(READ_ONLY_SUPPORTED, torch.cuda.current_device()):
            raise DeviceRefused("this GPU can't register read-only memory")
        address = data.ctypes.data
        code = driver.register(address, data.nbytes, REGISTER_READ_ONLY | REGISTER_MAPPED)
        if code:
            raise DeviceRefused(f"registering {data.nbytes} bytes was refused with CUDA's error {code}")
        code, pointer = driver.device_pointer(address)
        if code:
            driver.unregister(address)
            raise DeviceRefused(f"the GPU has no address for registered memory (CUDA's error {code})")
        return self.view(pointer, data.shape)

    def view(self, pointer: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory that the GPU knows by ``pointer``, as uint8 without a copy."""
        return torch.as_tensor(_Exported(pointer, shape), device=self.device)

    def unregister(self, data: Pixels) -> None:
        torch.cuda.synchronize()
        self._driver().unregister(data.ctypes.data)

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        try:
            return torch.empty(shape, dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError:
            raise DeviceRefused(f"the GPU has no room for {int(np.prod(shape))} bytes") from None

    def pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def upload(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        # From pageable memory the copy would wait for the device. torch reuses pinned memory only once its copy is done.
        return torch.from_numpy(numbers).pin_memory().to(self.device, non_blocking=True)

    def beside(self) -> contextlib.AbstractContextManager[Any]:
        if self._side is None:
            self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._side)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def join(self, mark: torch.cuda.Event, *tensors: torch.Tensor) -> None:
        stream = torch.cuda.current_stream()
        stream.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(stream)

    def settle(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()


class _Exported:
    """Memory under an address, as ``torch.as_tensor`` takes it: https://numba.readthedocs.io, CUDA array interface."""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        # torch takes no read-only memory; nothing here writes to it.
        self.__cuda_array_interface__ = {"shape": shape, "typestr": "|u1", "data": (pointer, False), "version": 3}


def availability() -> Availability:
    """Whether torch can use an NVIDIA GPU here."""
    if not torch.cuda.is_available():
        return Availability(False, _no_device(), REMEDY)
    capability, built = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if any(_runs(capability, architecture) for architecture in built):
        return Availability(True)
    major, minor = capability
    reason = f"this torch has no kernels for the GPU's compute capability {major}.{minor} (it has {', '.join(built)})"
    return Availability(False, reason, "install a torch built for an older CUDA, or use mmap")


def _no_device() -> str:
    """Why torch finds no device: its own words where a driver is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            words = str(error).strip().splitlines()[0]
            if "NVIDIA driver on your system" not in words or "too old" in words:
                return f"no CUDA device here ({words})"
    return "no CUDA device here"


def _runs(capability: tuple[int, int], architecture: str) -> bool:
    """Whether code built for ``sm_90`` runs (on its generation, from its minor number on), or ``compute_90`` is compiled."""
    kind, _, digits = architecture.rstrip("abcdefghijklmnopqrstuvwxyz").partition("_")
    if not digits.isdigit():
        return False
    built = int(digits[:-1]), int(digits[-1])
    if architecture[-1].isalpha():  # sm_90a: for that very device
        return built == capability
    return built <= capability and (kind == "compute" or built[0] == capability[0])
