"""Files opened, read and closed, a batch a call."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from loaders.kernels import compiled, external

_openat = external("openat", "int32", "int32", "uint64", "int32")
_read = external("read", "int64", "int32", "uint64", "uint64")
_close = external("close", "int32", "int32")

_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_DIGITS = 8  # of a sample's number in its file's name, at least
_ROOM = 32  # for "/", a number of up to 19 digits, and the end of the string


@compiled("int64(int32, uint8[::1], int64[::1], uint8[::1], int64[::1], int64[::1], int64, int64[::1], int64[::1])")
def read_files(
    folder: int, names: Any, ends: Any, tail: Any, labels: Any, numbers: Any, buffer: int, starts: Any, lengths: Any
) -> int:
    """Read ``<name of the label>/<number><tail>`` below ``folder`` for each row; how many were read before one failed.

    Args:
        folder: a folder's descriptor.
        names: the folders' names, uint8, back to back.
        ends: int64 (classes,), where each name ends.
        tail: what stands behind the number, uint8.
        labels: int64 (B,).
        numbers: int64 (B,).
        buffer: the address of ``lengths.sum() + 1`` bytes.
        starts: int64 (B,), where in ``buffer`` each file is put.
        lengths: int64 (B,), what each file has to hold: one that is shorter or longer counts as failed.
    """
    path = np.empty(len(names) + len(tail) + _ROOM, np.uint8)
    for row in range(len(labels)):
        begin = ends[labels[row] - 1] if labels[row] > 0 else 0
        length = ends[labels[row]] - begin
        path[:length] = names[begin : begin + length]
        path[length] = ord("/")
        length += 1
        digits, rest = 1, numbers[row] // 10
        while rest > 0:
            digits, rest = digits + 1, rest // 10
        digits, rest = max(digits, _DIGITS), numbers[row]
        for place in range(digits):
            path[length + digits - 1 - place] = ord("0") + rest % 10
            rest //= 10
        length += digits
        path[length : length + len(tail)] = tail
        path[length + len(tail)] = 0
        file = _openat(folder, path.ctypes.data, _FLAGS)
        if file < 0:
            return row
        # One byte more than belongs: a longer file is told from a whole one without asking for its size.
        got = _read(file, buffer + starts[row], lengths[row] + 1)
        _close(file)
        if got != lengths[row]:
            return row
    return len(labels)
