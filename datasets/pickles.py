"""Reads the pickles of CIFAR's Python version without running anything that they name.

A pickle may call whatever it can import. Here it can import nothing: the three names that an array's pickle needs are answered
with the classes below, and every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


class Array:
    """Stands in for a pickled NumPy array; ``values`` is uint8, C-contiguous, read-only."""

    values: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        if dtype.kind != "u1" or is_fortran:
            raise pickle.UnpicklingError("an array is not of uint8 in C order")
        self.values = np.frombuffer(data, np.uint8).reshape(shape)


class _Dtype:
    """Stands in for ``numpy.dtype``; only its name counts."""

    def __init__(self, kind: str | bytes, *_: object) -> None:
        self.kind = kind.decode() if isinstance(kind, bytes) else kind

    def __setstate__(self, state: object) -> None:
        """Byte order and fields, which a uint8 has not."""


class _Ndarray:
    """Stands in for ``numpy.ndarray``, which is only named, never called."""


def _reconstruct(*_: object) -> Array:
    return Array()


_KNOWN: Mapping[tuple[str, str], object] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> object:
        try:
            return _KNOWN[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which the published files never do"
            ) from None


def load_mapping(data: bytes) -> dict[str, Any]:
    """The dictionary in a pickle, written by Python 2 or 3, with its keys as text.

    Strings of Python 2 come back as bytes, arrays as ``Array``.

    Raises:
        pickle.UnpicklingError: it is cut short or damaged, is no dictionary, or asks for anything but an array of uint8.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        raise pickle.UnpicklingError(f"cut short or damaged: {error}") from error
