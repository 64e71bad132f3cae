"""Payloads to pictures, a batch at a time where that can be done in one call without the GIL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.picture import LARGEST_PIXELS, NotAPicture, header_of
from loaders import sizing
from loaders.codec import Buffer, Pixels
from loaders.manifest import Content
from loaders.order import Draws, Indices
from loaders.turbojpeg import turbo

SCALED = "scaled"
"""The code path that decodes JPEG of differing sizes at a part of the size where the crop allows it; pixels then differ."""

# Pictures of differing sizes are decoded whole before they are cut: as many at a time as fit into this.
_SCRATCH_BYTES = 16 << 20


class Places(NamedTuple):
    """The payloads of a batch, as places in one buffer.

    Attributes:
        data: uint8 (total,), C-contiguous.
        starts, lengths: int64 (B,), in bytes.
    """

    data: Pixels
    starts: Indices
    lengths: Indices

    @classmethod
    def of(cls, payloads: Sequence[Buffer]) -> Places:
        """Payloads joined; a copy of them costs less than a Python call for each."""
        lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
        ends = np.cumsum(lengths)
        return cls(np.frombuffer(b"".join(payloads), np.uint8), ends - lengths, lengths)  # type: ignore[arg-type]

    def payload(self, row: int) -> Pixels:
        """The payload of a row: uint8 (its length,)."""
        start = int(self.starts[row])
        return self.data[start : start + int(self.lengths[row])]

    def outside(self) -> npt.NDArray[np.bool_]:
        """Rows whose places are not in ``data``: their offsets are damaged. bool (B,)."""
        room = len(self.data) - self.lengths
        outside: npt.NDArray[np.bool_] = (self.starts < 0) | (self.lengths < 0) | (self.starts > room)
        return outside


def words(content: Content, scaled: bool) -> str:
    """What decodes the pictures of a store here; empty where there is nothing to decode. Makes it ready, too."""
    if content.codec == "raw":
        return ""
    if content.codec == "png":
        return "Pillow, a picture a call"
    found = turbo()
    if found.decode is None:
        return f"simplejpeg, a picture a call ({found.words})"
    return f"{found.words}, a batch a call" + (f", {SCALED}" if scaled else "")


def why_not_scaled(content: Content) -> str:
    """Why pictures can't be decoded at a part of their size; empty where they can."""
    if content.codec != "jpeg" or content.shape is not None:
        return "it is for JPEG pictures of differing sizes"
    found = turbo()
    return found.words if found.decode is None else ""


def fill(
    content: Content,
    places: Places,
    sizes: npt.NDArray[np.int32] | None,
    indices: Indices,
    out: Pixels,
    draws: Draws,
    scaled: bool,
) -> Sequence[int]:
    """Fill the rows of ``out`` that a whole batch's way can fill; the rest have to be decoded one by one.

    Args:
        content: what the store holds.
        places: of the payloads.
        sizes: int32 (B, 2), height and width of each picture; None where all have the size of ``out``'s rows.
        indices: int64 (B,).
        out: uint8 (B, H, W, C), C-contiguous.
        draws: what crops are drawn from.
        scaled: decode at a part of the size where the crop allows it.

    Returns:
        The rows that are not filled: damaged ones, CMYK, all where there is no such way.

    Raises:
        ValueError: ``out`` is not a C-contiguous row for each payload; it is written to by its address.
    """
    if len(out) != len(places.starts) or not out.flags.c_contiguous or out.dtype != np.uint8:
        raise ValueError(f"{len(places.starts)} pictures can't be put into {out.dtype} {out.shape}, strides {out.strides}")
    if content.record_bytes is not None and _copy(places, content.record_bytes, out):
        return ()
    if content.codec != "jpeg" or turbo().decode is None:
        return range(len(indices))
    left = decode_equal(places, out) if sizes is None else _fill_differing(places, sizes, indices, out, draws, scaled)
    return [int(row) for row in np.flatnonzero(left)]


def _copy(places: Places, record_bytes: int, out: Pixels) -> bool:
    """Copy raw pictures that lie at equal distances; whether they do."""
    starts, count = places.starts, len(places.starts)
    if not count or (places.lengths != record_bytes).any() or places.outside().any():
        return False
    step = int(starts[1] - starts[0]) if count > 1 else record_bytes
    if step < 0 or (np.diff(starts) != step).any():
        return False
    rows = np.lib.stride_tricks.as_strided(places.data[starts[0] :], (count, record_bytes), (step, 1), writeable=False)
    np.copyto(out.reshape(count, record_bytes), rows)
    return True


def decode_equal(places: Places, out: Pixels) -> npt.NDArray[np.bool_]:
    """Decode JPEG files into ``out``, uint8 (B, H, W, C), whose size they should have: bool (B,), which ones are left."""
    count, height, width, channels = out.shape
    rows = out.ctypes.data + np.arange(count) * (height * width * channels)
    left = places.outside()
    sizes = np.tile(np.array([height, width], np.int32), (count, 1))
    _decode(places, rows, sizes, np.ones(count, np.int64), channels, left)
    return left


def _fill_differing(
    places: Places, sizes: npt.NDArray[np.int32], indices: Indices, out: Pixels, draws: Draws, scaled: bool
) -> npt.NDArray[np.bool_]:
    """Decode some pictures at a time, then cut each."""
    target = (out.shape[1], out.shape[2])
    left = places.outside()
    left |= (sizes < 1).any(axis=1) | (sizes.prod(axis=1, dtype=np.int64) > LARGEST_PIXELS)
    sizes = np.where(left[:, None], 1, sizes).astype(np.int32)
    crops = sizing.crops([(height, width) for height, width in sizes.tolist()], indices, draws, target)
    divisors = np.array([sizing.divisor(crop, target) if scaled else 1 for crop in crops], np.int64)
    shapes = -(-sizes.astype(np.int64) // divisors[:, None])
    ends = np.cumsum(shapes.prod(axis=1) * out.shape[3])
    for part in _parts(ends):
        first = int(ends[part.start - 1]) if part.start else 0
        scratch = np.empty(int(ends[part.stop - 1]) - first, np.uint8)
        begins = np.concatenate(([0], ends[part] - first))
        some = Places(places.data, places.starts[part], places.lengths[part])
        _decode(some, scratch.ctypes.data + begins[:-1], sizes[part], divisors[part], out.shape[3], left[part])
        for row in range(part.start, part.stop):
            if not left[row]:
                at = row - part.start
                picture = scratch[begins[at] : begins[at + 1]].reshape(*shapes[row], out.shape[3])
                sizing.cut(picture, crops[row], out[row], int(divisors[row]))
    return left


def _parts(ends: Indices) -> Iterator[slice]:
    """Neighbouring rows whose pictures fit into the scratch together; a larger picture comes alone."""
    start = 0
    while start < len(ends):
        limit = (int(ends[start - 1]) if start else 0) + _SCRATCH_BYTES
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield slice(start, stop)
        start = stop


def _decode(
    places: Places,
    rows: Indices,
    sizes: npt.NDArray[np.int32],
    divisors: Indices,
    channels: int,
    left: npt.NDArray[np.bool_],
) -> None:
    decode = turbo().decode
    assert decode is not None
    starts = places.data.ctypes.data + places.starts
    # Copies: compiled for arrays that may be written to, in C order.
    decode(starts, np.array(places.lengths), rows, np.array(sizes, order="C"), np.array(divisors), channels, left)


def whole(files: Sequence[bytes]) -> Sequence[tuple[int, int] | None]:
    """Height and width of each JPEG file that can be decoded to its end; None for others, and where no batch's way is there."""
    if turbo().decode is None:
        return [None] * len(files)
    sizes = np.array([_size(file) for file in files], np.int32).reshape(-1, 2)
    left: npt.NDArray[np.bool_] = np.array((sizes < 1).any(axis=1))
    # All into one place: nobody looks at the pixels.
    scratch = np.empty(max(1, 3 * int(sizes.prod(axis=1, dtype=np.int64).max(initial=0))), np.uint8)
    count = len(files)
    _decode(Places.of(files), np.full(count, scratch.ctypes.data), sizes, np.ones(count, np.int64), 3, left)
    return [None if missing else (int(height), int(width)) for missing, (height, width) in zip(left, sizes, strict=True)]


def _size(file: bytes) -> tuple[int, int]:
    try:
        height, width, _ = header_of(file)
    except NotAPicture:
        return 0, 0
    return height, width
