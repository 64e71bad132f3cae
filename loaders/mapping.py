"""A file's bytes as a mapped array, advised by rule."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import psutil

from loaders.codec import Pixels
from loaders.order import Indices


def map_bytes(file: Path) -> tuple[Pixels, str]:
    """Map a file read-only: uint8 (size,), and the advice that the kernel was given.

    The rule: a file that takes less than half of the free memory will be needed, and is read ahead; a larger one is read
    at random, and reading ahead would only push out pages that are wanted.
    """
    with file.open("rb") as handle:
        mapping = mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ)
    fits = len(mapping) < psutil.virtual_memory().available // 2
    mapping.madvise(mmap.MADV_WILLNEED if fits else mmap.MADV_RANDOM)
    return np.frombuffer(mapping, np.uint8), "MADV_WILLNEED" if fits else "MADV_RANDOM"


def check_bounds(indices: Indices, count: int) -> None:
    """Refuse indices that arrays would take for places counted from their end, or cut off.

    Raises:
        IndexError: an index is not in [0, count).
    """
    if not len(indices):
        return
    if indices.min() < 0 or indices.max() >= count:
        raise IndexError(f"indices must be in [0, {count})")


def gather(records: Pixels, indices: Indices, out: Pixels) -> None:
    """Copy rows of ``records``, uint8 (n, bytes), at ``indices`` into ``out``, uint8 (B, H, W, C), C-contiguous.

    ``mode="clip"`` writes straight into ``out`` and frees the GIL, where the default checks and buffers; so the bounds
    are checked here.

    Raises:
        IndexError: an index is not in [0, n).
    """
    check_bounds(indices, len(records))
    np.take(records, indices, axis=0, out=out.reshape(len(indices), records.shape[1]), mode="clip")
