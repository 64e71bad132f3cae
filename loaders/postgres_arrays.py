"""Arrays of numbers to and from PostgreSQL in its binary form, without a Python integer for each number."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from psycopg import Connection, adapt, pq

# One dimension: count of dimensions, whether there are nulls, the elements' type, their count, the first index; then
# length and value of each element. Source: array_send in PostgreSQL's src/backend/utils/adt/arrayfuncs.c.
_HEAD = struct.Struct(">iiiii")
_INT8, _INT8_ARRAY, _INT4_ARRAY, _TID = 20, 1016, 1007, 27
_INT8_ELEMENT = np.dtype([("bytes", ">i4"), ("value", ">i8")])
_TID_ELEMENT = np.dtype([("bytes", ">i4"), ("page", ">u4"), ("item", ">u2")])
_INT4_ELEMENT = np.dtype([("bytes", ">i4"), ("value", ">i4")])


def adapt_arrays(connection: Connection[tuple[object, ...]]) -> None:
    """Let a connection take int64 arrays (n,) as ``bigint[]``, and hand over ``integer[]`` as int32 arrays (n,)."""
    connection.adapters.register_dumper(np.ndarray, _Int64Dumper)
    connection.adapters.register_loader(_INT4_ARRAY, _Int32Loader)


def bigint_array(numbers: npt.NDArray[np.int64]) -> bytes:
    """Numbers (n,) as ``bigint[]``."""
    elements = np.empty(len(numbers), _INT8_ELEMENT)
    elements["bytes"], elements["value"] = 8, numbers
    return _HEAD.pack(1, 0, _INT8, len(numbers), 1) + elements.tobytes()


def tid_array(pages: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> bytes:
    """Places of rows, pages (n,) from 0 and items (n,) from 1, as ``tid[]``."""
    elements = np.empty(len(pages), _TID_ELEMENT)
    elements["bytes"], elements["page"], elements["item"] = 6, pages, items
    return _HEAD.pack(1, 0, _TID, len(pages), 1) + elements.tobytes()


class _Int64Dumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _INT8_ARRAY

    def dump(self, obj: npt.NDArray[np.int64]) -> bytes:
        return bigint_array(obj)


class _Int32Loader(adapt.Loader):
    format = pq.Format.BINARY

    def load(self, data: bytes | bytearray | memoryview) -> npt.NDArray[np.int32]:
        return np.frombuffer(data, _INT4_ELEMENT, offset=_HEAD.size)["value"].astype(np.int32)
