"""The only shuffle, and the only source of per-sample randomness.

Both are pure functions of their arguments, so that every backend, engine, worker and thread reads the same order and
draws the same crops.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

# Keys of Philox are 64-bit words: this epoch number is never reached by training.
_SUBSET_EPOCH = 2**64 - 1


def order(count: int, seed: int, epoch: int) -> Indices:
    """A permutation of ``range(count)``: int64 (count,), from Philox keyed by (seed, epoch)."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    return generator.permutation(count).astype(np.int64, copy=False)


def subset(count: int, limit: int | None) -> Indices:
    """The same ``limit`` indices out of ``count`` for every run: int64, ascending; all of them where limit is None."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(order(count, 0, _SUBSET_EPOCH)[:limit])


def digest(indices: Indices) -> str:
    """SHA-256 of indices as little-endian int64: the order digest of records."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()


class Draw(IntEnum):
    """What is drawn for a sample; each has numbers of its own."""

    FLIP = 0
    CROP_TOP = 1
    CROP_LEFT = 2
    BOX = 16  # and the following: see sizing.py


def uniform(seed: int, epoch: int, indices: Indices, draw: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per index: float64 (B,), a pure function of (seed, epoch, index, draw).

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), applied after each word of the key.
    """
    state = np.zeros(len(indices), dtype=np.uint64)
    for word in (np.uint64(seed), np.uint64(epoch), np.asarray(indices).astype(np.uint64), np.uint64(draw)):
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15) + word)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """What per-sample randomness is drawn from.

    Attributes:
        seed, epoch: the key of every draw.
        training: random-resized-crop where sizes differ; else resize and centre crop.
    """

    seed: int
    epoch: int
    training: bool
