"""JPEG pictures decoded by libjpeg-turbo, a batch a call.

Import it only after ``loaders.turbojpeg`` has given the library's functions to the linker under the names used here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loaders.kernels import compiled, external

# TurboJPEG's older functions, which every libjpeg-turbo since 1.4 has; their prototypes are in its turbojpeg.h.
_POINTER, _LONG, _INT = "uint64", "uint64", "int32"
_init = external("loadstone_tjInitDecompress", _POINTER)
_header = external("loadstone_tjDecompressHeader3", _INT, _POINTER, _POINTER, _LONG, *[_POINTER] * 4)
_decompress = external("loadstone_tjDecompress2", _INT, _POINTER, _POINTER, _LONG, _POINTER, *[_INT] * 5)
_destroy = external("loadstone_tjDestroy", _INT, _POINTER)

_RGB, _GREY = 0, 6  # TJPF_RGB, TJPF_GRAY
_CMYK = 3  # TJCS_CMYK, and TJCS_YCCK behind it
_STOP_ON_WARNING = 8192  # TJFLAG_STOPONWARNING. No flag for speed: the accurate DCT and smooth upsampling are Pillow's.


@compiled("void(int64[::1], int64[::1], int64[::1], int32[:, ::1], int64[::1], int64, boolean[::1])")
def decode(starts: Any, lengths: Any, rows: Any, sizes: Any, divisors: Any, channels: int, left: Any) -> None:
    """Decode a batch, a decompressor a picture: a used one would lend its tables to a file that lost its own.

    Args:
        starts: int64 (B,), addresses of the JPEG files.
        lengths: int64 (B,), their bytes.
        rows: int64 (B,), addresses that each picture is written to.
        sizes: int32 (B, 2), height and width that each has to have.
        divisors: int64 (B,), 1, 2, 4 or 8: decoded at that part of the size, rounded up.
        channels: 3 (RGB) or 1 (grey).
        left: bool (B,); on entry what is not to be decoded, on return what was not: damaged, of another size, CMYK.
    """
    found = np.empty(4, np.int32)  # width, height, subsampling, colour space
    at = found.ctypes.data
    form = _RGB if channels == 3 else _GREY
    for row in range(len(starts)):
        if left[row]:
            continue
        left[row] = True
        handle = _init()
        if _header(handle, starts[row], lengths[row], at, at + 4, at + 8, at + 12) == 0:
            fits = found[1] == sizes[row, 0] and found[0] == sizes[row, 1]
            if fits and found[3] < _CMYK:
                height = (sizes[row, 0] + divisors[row] - 1) // divisors[row]
                width = (sizes[row, 1] + divisors[row] - 1) // divisors[row]
                failed = _decompress(handle, starts[row], lengths[row], rows[row], width, 0, height, form, _STOP_ON_WARNING)
                left[row] = failed != 0
        _destroy(handle)
