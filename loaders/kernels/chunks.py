"""Rows out of chunks that lie in memory, decompressed by the system's zlib, a batch a call.

To import it raises OSError where there is no zlib.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding
import numpy as np

from loaders.kernels import compiled, external

llvmlite.binding.add_symbol("loadstone_uncompress", ctypes.cast(ctypes.CDLL("libz.so.1").uncompress, ctypes.c_void_p).value)

_copy = external("memcpy", "uint64", "uint64", "uint64", "uint64")
_uncompress = external("loadstone_uncompress", "int32", "uint64", "uint64", "uint64", "uint64")

_ROWS = "int64(int64[::1], int64[::1], int64, int64[::1], int64[::1], boolean[::1], int64, int64, int64)"


@compiled(_ROWS)
def read_rows(
    order: Any, indices: Any, data: int, starts: Any, lengths: Any, deflated: Any, rows: int, row_bytes: int, out: int
) -> int:
    """Copy rows to ``out``, each chunk decompressed once; the place in ``indices`` that failed, or -1.

    Args:
        order: int64 (B,), the places of ``indices`` by their values, so that those of a chunk are neighbours.
        indices: int64 (B,), rows of the dataset.
        data: address of the file's first byte.
        starts: int64 (chunks,), where each chunk begins, in bytes.
        lengths: int64 (chunks,), its bytes there.
        deflated: bool (chunks,), whether it is compressed; if not it has all its bytes.
        rows: of each chunk.
        row_bytes: of each row.
        out: address of uint8 (B, row_bytes).
    """
    whole = rows * row_bytes
    scratch = np.empty(whole, np.uint8)
    made = np.empty(1, np.uint64)
    held, source = -1, 0
    for at in order:
        number = indices[at] // rows
        if number != held:
            held, source = number, data + starts[number]
            if deflated[number]:
                made[0] = whole
                failed = _uncompress(scratch.ctypes.data, made.ctypes.data, source, lengths[number])
                if failed != 0 or made[0] != whole:
                    return int(at)
                source = int(scratch.ctypes.data)
        _copy(out + at * row_bytes, source + (indices[at] - number * rows) * row_bytes, row_bytes)
    return -1
