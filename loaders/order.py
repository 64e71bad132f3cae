"""The only shuffle, and the only source of per-sample randomness.

All are pure functions of their arguments, so that every backend, engine, worker and thread reads the same order and
draws the same crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

# Keys of Philox are 64-bit words: this epoch number is never reached by training.
_SUBSET_EPOCH = 2**64 - 1


# Up to so many samples an epoch's order is made whole (16 MB), beyond it by the part: 100 M would take 800 MB, in every worker.
WHOLE = 2**21
# Permutations of few rounds show it in their statistics; Luby and Rackoff 1988 prove 4 enough for an ideal round function.
_ROUNDS = 6
_ROUND_KEYS = 2**32  # beyond every draw of a sample
_PART = 1 << 16

# SplitMix64's: Steele, Lea and Flood 2014.
GOLDEN = 0x9E3779B97F4A7C15
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Order(Protocol):
    """Indices in the order they are read in, whose slices are int64 arrays; an array is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Indices: ...


def order(count: int, seed: int, epoch: int) -> Indices:
    """A permutation of ``range(count)``, whole: int64 (count,), keyed by (seed, epoch).

    From Philox, by NumPy's generator; over ``WHOLE`` that of ``Scattered``.
    """
    if count > WHOLE:
        return Scattered(count, seed, epoch)[:]
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    return generator.permutation(count).astype(np.int64, copy=False)


def by_part(count: int, seed: int, epoch: int) -> Order:
    """The same as ``order``, made whole only where that is small."""
    return order(count, seed, epoch) if count <= WHOLE else Scattered(count, seed, epoch)


@dataclass(frozen=True)
class InOrder:
    """``range(count)``, by the part."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice, /) -> Indices:
        return np.arange(*part.indices(self.count), dtype=np.int64)


@dataclass(frozen=True)
class Scattered(InOrder):
    """A pseudo-random permutation of ``range(count)`` of which any part can be had without the rest.

    Source: a Feistel network over the least power of two that holds ``count`` (Luby and Rackoff 1988), its rounds keyed
    by (seed, epoch), and walked on until it falls below ``count`` (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains"): so it is a permutation for every count.
    """

    seed: int
    epoch: int

    def __getitem__(self, part: slice, /) -> Indices:
        places = super().__getitem__(part)
        for start in range(0, len(places), _PART):  # whole, it would take six times the memory of what it makes
            places[start : start + _PART] = self._at(places[start : start + _PART])
        return places

    def _at(self, places: Indices) -> Indices:
        keys = _hash(self.seed, self.epoch, np.arange(_ROUNDS, dtype=np.uint64), [_ROUND_KEYS])[0]
        found = self._network(places.astype(np.uint64), keys)
        while len(outside := np.flatnonzero(found >= np.uint64(self.count))):
            found[outside] = self._network(found[outside], keys)
        return found.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        bits = max(2, (self.count - 1).bit_length())
        left_bits, right_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        left, right = values >> right_bits, values & ((np.uint64(1) << right_bits) - np.uint64(1))
        for key in keys:  # the halves change places, and with them their widths; an even number of rounds puts those back
            left, right = right, left ^ (_mix(right + key) >> (np.uint64(64) - left_bits))
            left_bits, right_bits = right_bits, left_bits
        return (left << right_bits) | right


def subset(count: int, limit: int | None) -> Indices:
    """The same ``limit`` indices out of ``count`` for every run: int64, ascending; all of them where limit is None."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(by_part(count, 0, _SUBSET_EPOCH)[:limit])


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
    numbers: npt.NDArray[np.float64] = uniforms(seed, epoch, indices, (draw,))[0]
    return numbers


def uniforms(seed: int, epoch: int, indices: Indices, draws: Sequence[int]) -> npt.NDArray[np.float64]:
    """``uniform`` of several draws at once: float64 (D, B); what they share is hashed once."""
    return (_hash(seed, epoch, np.asarray(indices).astype(np.uint64), draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def keyed(seed: int, epoch: int) -> int:
    """What an index is added to before it is hashed, in [0, 2**64); see ``loaders.tensor_augment`` too."""
    state = np.zeros(1, np.uint64)  # NumPy warns of numbers that overflow, not of arrays
    for word in (seed, epoch):
        state = _mix(state + np.uint64(GOLDEN) + np.uint64(word))
    return int((state + np.uint64(GOLDEN))[0])


def _hash(seed: int, epoch: int, values: npt.NDArray[np.uint64], draws: Sequence[int]) -> npt.NDArray[np.uint64]:
    """64 bits for each draw and value: (D, B); see ``uniform``."""
    which = np.array(draws, np.uint64)[:, None] + np.uint64(GOLDEN)
    return _mix(_mix(values + np.uint64(keyed(seed, epoch))) + which)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(MIXERS[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(MIXERS[1])
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
