"""Examples to samples, some at a time in threads, in order; and the digest of what goes by, in a thread of its own."""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from datasets.source import Block, Example
from loaders import codec, decoding
from loaders.manifest import Content, SplitManifest
from loaders.store import Sample

# Examples that a thread is given at once. Each costs some microseconds of Python: more would gain nothing.
_EXAMPLES = 64
_EXAMPLE_BYTES = 1 << 19


class Damaged(NamedTuple):
    """An example that is no picture, or not of the size that belongs; ``place`` is its index in the split."""

    place: int
    what: str


Group = list[Sample] | Damaged


class Encoder:
    """Encodes examples in a thread a core; a context manager.

    Args:
        content: what the store is to hold.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        cores = len(os.sched_getaffinity(0))
        self._ahead = cores + 2  # groups that are held at a time, beside the one that is being written
        self._threads = ThreadPoolExecutor(cores, "encode")

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def groups(self, examples: Iterator[Example]) -> Iterator[Group]:
        """Samples in the order of their examples, some at a time; in place of some, what is wrong with one of them."""
        waiting: deque[Future[Group]] = deque()
        for first, group in _grouped(examples):
            waiting.append(self._threads.submit(self._encoded, first, group))
            if len(waiting) > self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _encoded(self, first: int, group: list[Example]) -> Group:
        samples = []
        for index, (example, size) in enumerate(zip(group, self._whole(group), strict=True), first):
            picture = example.picture
            try:
                if size is not None and isinstance(picture, bytes):
                    sample = Sample(picture, example.label, *size)
                else:
                    payload, height, width = codec.encode(self._content.codec, example, self._content.channels)
                    sample = Sample(payload, example.label, height, width)
                self._check_size(sample)
            except codec.UndecodableError as error:
                return Damaged(index, str(error))
            samples.append(sample)
        return samples

    def _whole(self, group: list[Example]) -> Sequence[tuple[int, int] | None]:
        """Sizes of JPEG files that are held as they are, and could be decoded; None: to be looked at by itself."""
        if self._content.codec != "jpeg":
            return [None] * len(group)
        return decoding.whole([example.picture if isinstance(example.picture, bytes) else b"" for example in group])

    def _check_size(self, sample: Sample) -> None:
        shape = self._content.shape
        if shape is not None and (sample.height, sample.width) != shape[:2]:
            raise codec.UndecodableError(f"{sample.height} x {sample.width} pixels where {shape[0]} x {shape[1]} belong")


def _grouped(examples: Iterator[Example]) -> Iterator[tuple[int, list[Example]]]:
    """Neighbours together, with the index of the first."""
    first, group, held = 0, [], 0
    for example in examples:
        group.append(example)
        held += len(example.picture) if isinstance(example.picture, bytes) else example.picture.nbytes
        if len(group) == _EXAMPLES or held >= _EXAMPLE_BYTES:
            yield first, group
            first, group, held = first + len(group), [], 0
    if group:
        yield first, group


class ContentDigest:
    """SHA-256 over every sample, in order: label (int64, little-endian), payload length (uint64), payload."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.count = 0
        self.payload_bytes = 0

    def add(self, label: int, payload: codec.Buffer) -> None:
        """Take in one sample."""
        self._sha.update(struct.pack("<qQ", label, len(payload)))
        self._sha.update(payload)  # type: ignore[arg-type] # NumPy's stubs of Python 3.11 lack the buffer protocol
        self.count += 1
        self.payload_bytes += len(payload)

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Take in samples: joined, since hashing frees the GIL only for a while that is worth it."""
        parts: list[Any] = []
        for sample in samples:
            parts += (struct.pack("<qQ", sample.label, len(sample.payload)), sample.payload)
        joined = b"".join(parts)
        self._sha.update(joined)
        self.count += len(samples)
        self.payload_bytes += len(joined) - 16 * len(samples)

    def add_block(self, block: Block) -> None:
        """Take in pictures as they are."""
        count = len(block.labels)
        pixels = block.pictures.reshape(count, -1)
        joined = np.empty((count, 16 + pixels.shape[1]), np.uint8)
        joined[:, :8] = block.labels.astype("<i8").view(np.uint8).reshape(count, 8)
        joined[:, 8:16] = np.array([pixels.shape[1]], "<u8").view(np.uint8)
        joined[:, 16:] = pixels
        self._sha.update(joined.data)
        self.count += count
        self.payload_bytes += pixels.size

    def manifest(self) -> SplitManifest:
        """What was taken in."""
        return SplitManifest(count=self.count, payload_bytes=self.payload_bytes, content_sha256=self._sha.hexdigest())


class Beside:
    """Calls functions in another thread, one after the other and at most two behind; a context manager that waits for all."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "digest")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        while self._waiting:
            self._waiting.popleft().result()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function later; raises what one of those before raised."""
        self._waiting.append(self._thread.submit(function, *arguments))
        if len(self._waiting) > 2:
            self._waiting.popleft().result()
