"""``dali``: the file of ``mmap``, decoded, cropped and batched by an NVIDIA DALI pipeline that is fed in our order.

``dali_gpu`` is the same pipeline with a GPU's decoder. Augmentation stays in torch, as for every other backend; the path
``fused`` has it in the pipeline, by the same draws.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import nvidia.dali
import torch
from nvidia.dali import fn, types

from datasets.errors import SampleCorrupt, Unavailable
from loaders import gpu, sizing
from loaders.augment import Augment
from loaders.backends.mmap import MmapReader, MmapStore, Payloads
from loaders.codec import Buffer, Pixels
from loaders.feed import AUGMENTED, Feed, FeedStore, Promise
from loaders.manifest import Content
from loaders.mapping import gather
from loaders.order import Draws, Indices
from loaders.store import Availability

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

# Batches in a pipeline at once: one that is delivered and one that is made meanwhile.
AHEAD = 2
# DALI reads its input where it lies, up to when the batch is out: a slot used sooner corrupted 7 of 10 batches.
SLOTS = AHEAD + 2

FUSED = "fused"
"""The path that crops and mirrors in the pipeline."""

# Measured on 766 photographs, training and evaluation crops, by DALI 2.4.0 and Pillow 13.0.0.
RESIZED = (
    "DALI's triangular filter repeats a picture's edge where Pillow's leaves it out: at 224 pixels 0.02 % of the values are "
    "more than one level apart and none more than 13, at 64 pixels under 1 % and none more than 22"
)

# The bound that a test marked gpu demands; it has not run on a GPU yet.
NVJPEG = "nvJPEG's inverse DCT is not libjpeg's: none of the values may be more than 16 levels apart, and 1 % more than 3"


class DaliStore(MmapStore, FeedStore):
    """The files of ``mmap``, read by a pipeline on the CPU."""

    name = "dali"
    engines = ("native",)
    paths: ClassVar[tuple[str, ...]] = (FUSED,)
    decoder: ClassVar[str] = "cpu"

    @property
    def augments(self) -> bool:
        return self.path == FUSED

    @property
    def differences(self) -> Mapping[Promise, str]:
        if self.augments:
            return {"pixels": AUGMENTED}
        return {} if self.content.shape is not None else {"pixels": RESIZED}

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> DaliFeed:
        return DaliFeed(self, split, plan, shape)


class DaliGpuStore(DaliStore):
    """The same, decoded by nvJPEG where that can, cropped and resized on the GPU, where its batches are born."""

    name = "dali_gpu"
    decoder = "mixed"

    @classmethod
    def check(cls) -> Availability:
        return gpu.availability()

    @property
    def differences(self) -> Mapping[Promise, str]:
        if self.content.codec != "jpeg":
            return super().differences
        return {"pixels": NVJPEG}


_STARTED_IN: list[int] = []


def check_process(name: str) -> None:
    """Called before a pipeline is made. DALI's threads do not survive a fork: one made in a child waited for ever.

    Raises:
        Unavailable: this process was forked from one in which a pipeline was made.
    """
    if _STARTED_IN and _STARTED_IN[-1] != os.getpid():
        raise Unavailable(name, "DALI was started before this process was forked", "read in its parent")
    _STARTED_IN[:] = [os.getpid()]


class DaliFeed(Feed):
    """A pipeline that is fed the sampler's order, and keeps ``AHEAD`` batches under way."""

    def __init__(self, store: DaliStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        super().__init__(store, split, plan, shape)
        self._reader = MmapReader(store, split)
        self._decoder = store.decoder
        self._augment = plan.augment if plan.training else None

    @property
    def path_taken(self) -> str:  # type: ignore[override]
        """DALI's version, and what it does to the payloads."""
        done = [f"external source in order, {self.content.codec} by {self._decoder}"]
        done += ["cropped and resized"] if self.content.shape is None else []
        done += ["augmented in the pipeline"] if self._augment else []
        return f"DALI {nvidia.dali.__version__}, {', '.join(done)}"

    def _made(self) -> Pipeline:
        check_process(self.store.name)
        threads = self.plan.workers or 1
        return Pipeline(self.content, self._decoder, self.shape, self.plan.batch_size, threads, self._augment)

    def batches(self, asked: Key) -> Iterator[Batch]:
        """Batches in the order asked for, decoded by ``plan.workers`` threads of DALI's, at least one.

        Raises:
            IndexError: an index is not in the split. SampleCorrupt: a picture can't be decoded.
        """
        size = self.plan.batch_size
        under_way: deque[Indices] = deque()
        try:
            for start in range(0, len(asked.indices), size):
                if len(under_way) == AHEAD:
                    yield self._next(under_way.popleft())
                indices = asked.indices[start : start + size]
                self._feed(asked, indices)
                under_way.append(indices)
            if not self.loader.started:  # an epoch of one batch: once more, for the pipeline to start at all
                self._feed(asked, under_way[0])
                under_way.append(under_way[0])
                yield self._next(under_way.popleft())
                return
            while under_way:
                yield self._next(under_way.popleft())
        finally:
            if under_way:  # what was read ahead and not asked for goes with its pipeline
                self._loader = None

    def _feed(self, asked: Key, indices: Indices) -> None:
        draws = Draws(self.plan.seed, asked.epoch, self.plan.training)
        self.loader.feed(self._reader.handle, indices, draws, self._reader)

    def _next(self, indices: Indices) -> Batch:
        from loaders.engine import Batch

        try:
            pictures = self.loader.take()
        except RuntimeError as error:
            self._loader = None  # it can't go on after an error
            raise self._named(indices, error) from None
        classes = self._reader.labels_at(indices)
        labels = gpu.CudaGpu().upload(classes) if pictures.is_cuda else torch.from_numpy(classes)
        if self.plan.pin_memory and not pictures.is_cuda:
            pictures, labels = pictures.pin_memory(), labels.pin_memory()
        return Batch(pictures.permute(0, 3, 1, 2), labels, indices)

    def _named(self, indices: Indices, error: RuntimeError) -> SampleCorrupt:
        """DALI says what is wrong with a batch, not with which sample of it: our own decoder finds out."""
        out = np.empty((1, *self.shape), np.uint8)
        for index in indices:
            try:
                self._reader.read(np.array([index]), out, Draws(0, 0, training=False))
            except SampleCorrupt as found:
                return found
        what = f"or one of its batch: DALI can't decode it ({str(error).strip().splitlines()[-1]})"
        return SampleCorrupt(self.store.root, self.split, int(indices[0]), what)

    def close(self) -> None:
        super().close()
        self._reader.close()


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
        threads: of DALI's own.
        augment: what is done to its pictures after that; None leaves them as they are.
    """

    def __init__(
        self,
        content: Content,
        decoder: str,
        size: tuple[int, int, int],
        batch_size: int,
        threads: int,
        augment: Augment | None,
    ) -> None:
        self._content, self._size, self._decoder, self._augment = content, size, decoder, augment
        # The slots of whole batches; payloads that differ in length are read by DALI from the mapping itself.
        self._slots = [np.empty((batch_size, *size), np.uint8) for _ in range(SLOTS)] if content.record_bytes else []
        self._held: deque[Any] = deque(maxlen=SLOTS)
        self._waiting, self.started = 0, False
        self._fed = 0
        pipeline = nvidia.dali.Pipeline(
            batch_size=batch_size,
            num_threads=threads,
            device_id=0 if decoder == "mixed" else None,
            prefetch_queue_depth=AHEAD,
        )
        with pipeline:
            pictures = _graph(content, decoder, size)
            pipeline.set_outputs(pictures if augment is None else _augmented(pictures, augment, size))
        pipeline.build()
        self._pipeline = pipeline

    def feed(self, payloads: Payloads, indices: Indices, draws: Draws, reader: MmapReader) -> None:
        """Give it the payloads at ``indices``, and the crops of pictures whose sizes differ, and let it start."""
        sizes = reader.sizes if self._content.shape is None else None
        data = self._payloads(payloads, indices, sizes)
        self._held.append(data)
        self._pipeline.feed_input("payloads", data)
        if sizes is not None:
            boxes = _boxes(indices, sizes, draws, self._size[:2])
            self._pipeline.feed_input("starts", boxes.starts)
            self._pipeline.feed_input("shapes", boxes.shapes)
        if self._augment is not None:
            top, left, mirrored = self._augment.draw(indices, draws.seed, draws.epoch).astype(np.int32)
            rows, columns = self._augment.padding
            self._pipeline.feed_input("corners", np.stack((top - rows, left - columns), axis=1))
            self._pipeline.feed_input("mirrored", mirrored)
        self._waiting += 1
        # The first call starts as many batches as are to be ahead, and fails where they are not fed yet.
        if self.started or self._waiting == AHEAD:
            self.started = True
            self._pipeline.schedule_run()

    def take(self) -> torch.Tensor:
        """The oldest batch that was fed, uint8 (B, H, W, C), in memory of its own, on the device that it was made on."""
        # DALI writes its buffers again once they are released.
        if self._decoder == "mixed":
            # Its work is put in the order of this stream, which so waits for it; the process does not.
            (made,) = self._pipeline.share_outputs(cuda_stream=torch.cuda.current_stream())
            pictures = torch.utils.dlpack.from_dlpack(made.as_tensor()).clone()
        else:
            (made,) = self._pipeline.share_outputs()
            pictures = torch.from_numpy(made.as_array().copy())
        self._pipeline.release_outputs()
        return pictures

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
    kind: dict[str, Any] = {"ndim": 1} if encoded else {"layout": "HWC"}
    pictures = fn.external_source(name="payloads", dtype=types.UINT8, no_copy=True, **kind)
    if encoded:
        colours = types.RGB if content.channels == 3 else types.GRAY
        # Fancy: chroma between two samples is interpolated, as libjpeg does; nvJPEG by itself repeats the nearer one.
        pictures = fn.decoders.image(pictures, device=decoder, output_type=colours, jpeg_fancy_upsampling=True)
    elif decoder == "mixed":
        pictures = pictures.gpu()
    if content.shape is None:
        starts = fn.external_source(name="starts", dtype=types.FLOAT, ndim=1)
        shapes = fn.external_source(name="shapes", dtype=types.FLOAT, ndim=1)
        # Cut before resizing, as Pillow does here: a filter that saw beyond the box differed by up to 150 levels.
        pictures = fn.slice(pictures, starts, shapes, axes=(0, 1), normalized_anchor=False, normalized_shape=False)
        pictures = fn.resize(pictures, size=size[:2], interp_type=types.INTERP_LINEAR, antialias=True)
    return pictures


def _augmented(pictures: Any, augment: Augment, size: tuple[int, int, int]) -> Any:
    """Cut from the padding that a picture would have, at ``corners`` from its own; what lies outside is the fill."""
    corners = fn.external_source(name="corners", dtype=types.INT32, ndim=1)
    mirrored = fn.external_source(name="mirrored", dtype=types.INT32, ndim=0)
    pictures = fn.slice(
        pictures, start=corners, shape=size[:2], axes=(0, 1), out_of_bounds_policy="pad", fill_values=augment.fill
    )
    return fn.flip(pictures, horizontal=mirrored)


def _boxes(indices: Indices, sizes: npt.NDArray[np.int32], draws: Draws, size: tuple[int, int]) -> Boxes:
    """The crops that every other backend cuts."""
    found = sizing.crops([(height, width) for height, width in sizes[indices].tolist()], indices, draws, size)
    boxes = np.array(found, dtype=np.float32)
    return Boxes(np.ascontiguousarray(boxes[:, :2]), np.ascontiguousarray(boxes[:, 2:]))
