"""The kernel's page cache: a store's own pages are dropped, and it is checked that they are gone. Needs no root.

What lies below the kernel (a hypervisor's cache, a disk's own) is out of reach, and so are the kernel's caches of directory
entries and inodes, which only root can drop: hence ``guest-cold``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import machine
from datasets.errors import StoreCorrupt

COLD_SHARE = 0.01
"""Of a store's pages, the most that may be in memory where it is called cold."""

# Pages that other processors hold in their short lists are not dropped by the first call (fadvise(2), "may not be ...").
_TRIES = 3
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
_FAILED = ctypes.c_void_p(-1).value


@dataclass(frozen=True)
class Dropped:
    """What was left of a store in memory when its pages had been dropped.

    Attributes:
        resident: the share of its pages that stayed, in [0, 1]; None where it was not asked.
        reason: why it is not cold; empty where it is.
        server: the process of the database server that reads it, or None.
    """

    resident: float | None
    reason: str = ""
    server: int | None = None


Drop = Callable[[], Dropped]
"""Drops the pages of a run's store; every handle, mapping and worker of the run is closed before it is called."""


def drop(root: Path) -> Dropped:
    """Drop the pages of every file below ``root``, and say what stayed.

    Raises:
        StoreCorrupt: a file can't be opened.
    """
    kind = machine.filesystem(root)
    if kind in _IN_MEMORY:
        return Dropped(None, f"{kind} keeps its files in memory")
    try:
        share = _drop_files(root)
    except OSError as error:
        raise StoreCorrupt(root, f"{error.filename or 'a file'} can't be dropped from memory ({error.strerror})") from error
    if share > COLD_SHARE:
        return Dropped(share, f"{share:.0%} of its pages stayed in memory, as where another process maps them")
    return Dropped(share)


def _drop_files(root: Path) -> float:
    files = [Path(folder) / name for folder, _, names in os.walk(root) for name in names]
    share = 1.0
    # A page that waits to be written is not dropped. One call for all: an fsync of each of 4,000 files took 15 s.
    os.sync()
    for _ in range(_TRIES):
        for file in files:
            _drop_file(file)
        share = resident(files)
        if share <= COLD_SHARE:
            break
    return share


def _drop_file(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def resident(files: Iterable[Path]) -> float:
    """The share of the files' pages that are in memory, by mincore(2); 0 where there are no pages.

    Of a file that is not ours to write the kernel says that all of it is, so that the answer is never too good.
    """
    counts = [_pages(file) for file in files]
    there, all_ = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return there / all_ if all_ else 0.0


def _pages(file: Path) -> tuple[int, int]:
    """Pages of a file in memory, and all of them."""
    handle = os.open(file, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        return (0, 0) if not size else _mapped_pages(handle, size)
    finally:
        os.close(handle)


def _mapped_pages(handle: int, size: int) -> tuple[int, int]:
    # Not by Python's mmap: it does not tell the address of a mapping that may only be read.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        pages = np.empty(-(-size // mmap.PAGESIZE), np.uint8)
        if libc.mincore(address, size, pages.ctypes.data) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        libc.munmap(address, size)
    return int((pages & 1).sum()), len(pages)
