"""``dali``: the file of ``mmap``, decoded, cropped and batched by an NVIDIA DALI pipeline that is fed in our order.

``dali_gpu`` is the same pipeline with a GPU's decoder. Augmentation stays in torch, as for every other backend.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import nvidia.dali
from nvidia.dali import fn, types

from datasets.errors import SampleCorrupt
from loaders import sizing
from loaders.backends.mmap import MmapReader, MmapStore, Payloads
from loaders.codec import Buffer, Pixels
from loaders.manifest import Content
from loaders.mapping import gather
from loaders.order import Draws, Indices
from loaders.store import Availability

# Batches in a pipeline at once: one that is delivered and one that is made meanwhile.
AHEAD = 2
# DALI reads its input where it lies, up to when the batch is out: a slot used sooner corrupted 7 of 10 batches.
SLOTS = AHEAD + 2


class DaliStore(MmapStore):
    """The files of ``mmap``, read by a pipeline on the CPU."""

    name = "dali"
    decoder: ClassVar[str] = "cpu"

    def reader(self, split: str) -> DaliReader:
        return DaliReader(self, split)


class DaliGpuStore(DaliStore):
    """The same, decoded by nvJPEG where that can, and cropped and resized on the GPU."""

    name = "dali_gpu"
    decoder = "mixed"

    @classmethod
    def check(cls) -> Availability:
        from loaders import gpu

        return gpu.availability()


class DaliReader(MmapReader):
    """A pipeline that makes one batch when it is asked; ``batches`` keeps one of its own ahead."""

    def __init__(self, store: DaliStore, split: str) -> None:
        super().__init__(store, split)
        self.decoder = store.decoder
        self._pipeline: Pipeline | None = None

    @property
    def path_taken(self) -> str:
        return f"DALI {nvidia.dali.__version__}, external source, {_words(self.content)} by {self.decoder}"

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        handle = self.handle
        size = (out.shape[1], out.shape[2], out.shape[3])
        if self._pipeline is None or not self._pipeline.takes(size, len(indices)):
            self._pipeline = Pipeline(self.content, self.decoder, size, len(indices), ahead=1)
        self._pipeline.feed(handle, indices, draws, self.sizes if self.content.shape is None else None)
        try:
            np.copyto(out, self._pipeline.take())
        except RuntimeError as error:
            raise self._named(indices, error) from None

    def batches(self, asked: Sequence[Indices], size: tuple[int, int, int], draws: Draws) -> Iterator[Pixels]:
        """One batch for each of ``asked``, ``AHEAD`` of them under way: uint8 (B, H, W, C), each in memory of its own.

        Raises:
            IndexError, SampleCorrupt: as ``read``.
        """
        handle, sizes = self.handle, self.sizes if self.content.shape is None else None
        pipeline = Pipeline(self.content, self.decoder, size, max(map(len, asked)), AHEAD)
        under_way: deque[Indices] = deque()
        for indices in asked:
            if len(under_way) == AHEAD:
                yield self._next(pipeline, under_way.popleft())
            pipeline.feed(handle, indices, draws, sizes)
            under_way.append(indices)
        while under_way:
            yield self._next(pipeline, under_way.popleft())

    def _next(self, pipeline: Pipeline, indices: Indices) -> Pixels:
        try:
            return pipeline.take().copy()
        except RuntimeError as error:
            raise self._named(indices, error) from None

    def _named(self, indices: Indices, error: RuntimeError) -> Exception:
        """DALI says what is wrong with a batch, not with which sample of it: our own decoder finds out."""
        self._pipeline = None  # which can't go on after an error
        out = np.empty(self._shape_of(indices), np.uint8)
        try:
            super().read(indices, out, Draws(0, 0, training=False))
        except SampleCorrupt as found:
            return found
        what = str(error).strip().splitlines()[-1]
        return SampleCorrupt(self.store.root, self.split, int(indices[0]), f"or one beside it: DALI can't decode it ({what})")

    def _shape_of(self, indices: Indices) -> tuple[int, int, int, int]:
        height, width, channels = self.content.shape or (8, 8, self.content.channels)
        return len(indices), height, width, channels

    def _close(self, _: Payloads) -> None:
        self._pipeline = None


def _words(content: Content) -> str:
    fitted = "" if content.shape is not None else ", cropped and resized"
    return f"{content.codec}{fitted}"


class Boxes(NamedTuple):
    """Crops of a batch in pixels, float32 (B, 2) each: (top, left) and (height, width)."""

    starts: npt.NDArray[np.float32]
    shapes: npt.NDArray[np.float32]


class Pipeline:
    """A DALI pipeline of one kind of batch.

    Args:
        content: what the store holds.
        decoder: ``cpu`` or ``mixed``.
        size: (height, width, channels) of what it delivers.
        batch_size: of its largest batch.
        ahead: batches that may be fed before the first is taken.
    """

    def __init__(self, content: Content, decoder: str, size: tuple[int, int, int], batch_size: int, ahead: int) -> None:
        self._content, self._size, self._batch_size = content, size, batch_size
        # The slots of whole batches; payloads that differ in length are read by DALI from the mapping itself.
        self._slots = [np.empty((batch_size, *size), np.uint8) for _ in range(ahead + 2)] if content.record_bytes else []
        self._held: deque[Any] = deque(maxlen=ahead + 2)
        self._fed = 0
        pipeline = nvidia.dali.Pipeline(
            batch_size=batch_size,
            num_threads=1,
            device_id=0 if decoder == "mixed" else None,
            prefetch_queue_depth=ahead,
        )
        with pipeline:
            pipeline.set_outputs(_graph(content, decoder, size))
        pipeline.build()
        self._pipeline = pipeline

    def takes(self, size: tuple[int, int, int], count: int) -> bool:
        """Whether it makes batches of ``count`` pictures of ``size``."""
        return size == self._size and count <= self._batch_size

    def feed(self, payloads: Payloads, indices: Indices, draws: Draws, sizes: npt.NDArray[np.int32] | None) -> None:
        """Give it the payloads at ``indices``, and the crops of pictures whose ``sizes`` differ, and let it start."""
        data = self._payloads(payloads, indices, sizes)
        self._held.append(data)
        self._pipeline.feed_input("payloads", data)
        if sizes is not None:
            boxes = _boxes(indices, sizes, draws, self._size[:2])
            self._pipeline.feed_input("starts", boxes.starts)
            self._pipeline.feed_input("shapes", boxes.shapes)
        self._pipeline.schedule_run()

    def take(self) -> Pixels:
        """The oldest batch that was fed, uint8 (B, H, W, C); valid until the next is taken."""
        self._pipeline.release_outputs()
        (made,) = self._pipeline.share_outputs()
        pixels: Pixels = np.asarray(made.as_cpu().as_array())
        return pixels

    def _payloads(self, payloads: Payloads, indices: Indices, sizes: npt.NDArray[np.int32] | None) -> Any:
        if self._slots:
            slot = self._slots[self._fed % len(self._slots)][: len(indices)]
            self._fed += 1
            gather(payloads.data, indices, slot)
            return slot
        views = payloads.views(indices)
        if self._content.codec == "raw" and sizes is not None:
            channels = self._content.channels
            return [_array(view).reshape(*sizes[index], channels) for view, index in zip(views, indices, strict=True)]
        return [_array(view) for view in views]


def _array(view: Buffer) -> Pixels:
    return np.frombuffer(view, np.uint8)


def _graph(content: Content, decoder: str, size: tuple[int, int, int]) -> Any:
    """Payloads to pictures: decoded where they are encoded, cropped and resized where sizes differ."""
    encoded = content.codec != "raw"
    pictures = fn.external_source(name="payloads", dtype=types.UINT8, ndim=1 if encoded else 3, no_copy=True)
    if encoded:
        colours = types.RGB if content.channels == 3 else types.GRAY
        pictures = fn.decoders.image(pictures, device=decoder, output_type=colours)
    elif decoder == "mixed":
        pictures = pictures.gpu()
    if content.shape is None:
        starts = fn.external_source(name="starts", dtype=types.FLOAT, ndim=1)
        shapes = fn.external_source(name="shapes", dtype=types.FLOAT, ndim=1)
        # Cut before resizing, as Pillow does here: a filter that saw beyond the box differed by up to 150 levels.
        pictures = fn.slice(pictures, starts, shapes, axes=(0, 1), normalized_anchor=False, normalized_shape=False)
        pictures = fn.resize(pictures, size=size[:2], interp_type=types.INTERP_LINEAR, antialias=True)
    return pictures


def _boxes(indices: Indices, sizes: npt.NDArray[np.int32], draws: Draws, size: tuple[int, int]) -> Boxes:
    """The crops that every other backend cuts."""
    found = []
    for index in map(int, indices):
        height, width = map(int, sizes[index])
        crop = sizing.box(height, width, index, draws) if draws.training else sizing.centre(height, width, size)
        found.append(crop)
    boxes = np.array(found, dtype=np.float32)
    return Boxes(boxes[:, :2], boxes[:, 2:])
