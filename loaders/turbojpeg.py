"""libjpeg-turbo, called a batch at a time without the GIL, where numba and the library are there.

Nothing of it is shipped or linked: the library is one that a package (pylibjxl, whose wheels hold a whole libjpeg-turbo)
or the system brings, and numba compiles the loop that calls it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FUNCTIONS = ("tjInitDecompress", "tjDecompressHeader3", "tjDecompress2", "tjDestroy")
_REMEDY = "pip install numba pylibjxl"


@dataclass(frozen=True)
class Turbo:
    """What decodes JPEG a batch at a time here.

    Attributes:
        decode: ``loaders.kernels.jpeg.decode``; None where it can't be had.
        words: which library serves, or why none does and what would help.
    """

    decode: Callable[..., None] | None
    words: str


@functools.cache
def turbo() -> Turbo:
    """The decoder, found and compiled at the first call: some tenths of a second, seconds where none was compiled before."""
    try:
        import llvmlite.binding
    except ImportError as error:
        return Turbo(None, f"{error.name} is not installed: {_REMEDY}")
    found = next(_libraries(), None)
    if found is None:
        return Turbo(None, f"no libjpeg-turbo that can be called: {_REMEDY}")
    library, name = found
    for function in _FUNCTIONS:
        address = ctypes.cast(getattr(library, function), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(f"loadstone_{function}", address)
    try:
        from loaders.kernels import jpeg
    except ImportError as error:  # numba says so where it is too old for NumPy or Python
        return Turbo(None, f"numba can't be used ({error})")
    return Turbo(jpeg.decode, f"libjpeg-turbo of {name}")


def _libraries() -> Iterator[tuple[ctypes.CDLL, str]]:
    """Libraries here that have all of ``_FUNCTIONS``. Opened for this use alone: their names stay out of others' sight."""
    for path, name in _places():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if all(hasattr(library, function) for function in _FUNCTIONS):
            yield library, name


def _places() -> Iterator[tuple[str, str]]:
    spec = importlib.util.find_spec("pylibjxl")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield from ((str(path), "pylibjxl") for path in sorted(Path(folder).glob("_pylibjxl*.so")))
    yield "libturbojpeg.so.0", "the system"
