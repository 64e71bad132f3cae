"""``ffcv``: FFCV's ``.beton`` file, read by its own loader in the project's order."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.fields.decoders import (
    CenterCropRGBImageDecoder,
    IntDecoder,
    NDArrayDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv.loader import Loader
from ffcv.memory_allocator import MemoryAllocator
from ffcv.reader import Reader as BetonReader
from ffcv.transforms import ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter, handle_sample

from datasets.errors import StoreCorrupt
from loaders.codec import Buffer
from loaders.feed import Feed, FeedReader, FeedStore, Promise
from loaders.lazy import lazy
from loaders.manifest import CodecName, Content
from loaders.mapping import check_bounds
from loaders.order import Indices
from loaders.sizing import AREA, EVALUATION_MARGIN, RATIO
from loaders.store import Labels, Sample

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

_JPEG = 0  # FFCV's number for a picture that is held as JPEG
# The least that FFCV's writer takes, times four, is its own default: no picture may be larger than a page.
_PAGE_BYTES = 1 << 23


class _JpegField(RGBImageField):  # type: ignore[misc] # FFCV has no types
    """Takes a JPEG's bytes as they were published; FFCV's own field would compress them a second time."""

    def encode(self, destination: Any, sample: Sample, malloc: Any) -> None:
        destination["mode"], destination["height"], destination["width"] = _JPEG, sample.height, sample.width
        destination["data_ptr"], storage = malloc(len(sample.payload))
        storage[:] = np.frombuffer(sample.payload, np.uint8)


class FfcvStore(FeedStore):
    """``<split>.beton`` with the fields ``image``, ``label`` and ``index``."""

    name = "ffcv"
    codecs: ClassVar[tuple[CodecName, ...]] = ("raw", "jpeg")

    @classmethod
    def refuses(cls, content: Content) -> str:
        if content.channels == 1 and (content.codec == "jpeg" or content.shape is None):
            return "FFCV's pictures have three channels"
        return super().refuses(content)

    @property
    def differences(self) -> Mapping[Promise, str]:
        found: dict[Promise, str] = {"held": "a batch's memory is written again five batches later"}
        if self.content.shape is None:
            found["pixels"] = "FFCV's decoders crop and resize, with random numbers of their own"
        elif self.content.codec == "jpeg":
            found["pixels"] = "FFCV decodes by libjpeg-turbo's fast inverse DCT"
        return found

    def file(self, split: str) -> Path:
        """The file of a split."""
        return self.root / f"{split}.beton"

    def fields(self) -> dict[str, Any]:
        """The fields of a sample, as FFCV's writer takes them; grey pictures are arrays to it."""
        content = self.content
        if content.codec == "jpeg":
            image: Any = _JpegField()
        elif content.channels == 1:
            image = NDArrayField(np.dtype("u1"), content.shape)
        else:
            image = RGBImageField(write_mode="raw")
        return {"image": image, "label": IntField(), "index": IntField()}

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        """Write in this process and one pass: FFCV's own ``from_indexed_dataset`` wants samples by number, in workers."""
        writer = DatasetWriter(str(self.file(split)), self.fields(), page_size=_PAGE_BYTES, num_workers=1)
        writer.num_samples = self.content.counts[split]
        writer.prepare()
        try:
            allocator = MemoryAllocator(writer.fname, writer.data_region_start, writer.page_size)
            with allocator:
                self._fill(writer, allocator, samples)
            writer.finalize(allocator.allocations)
        finally:
            writer.metadata_sm.close()
            writer.metadata_sm.unlink()
        with self.file(split).open("rb") as written:
            os.fsync(written.fileno())

    def _fill(self, writer: DatasetWriter, allocator: MemoryAllocator, samples: Iterator[Sample]) -> None:
        metadata = np.frombuffer(writer.metadata_sm.buf, dtype=writer.metadata_type, count=writer.num_samples)
        for index, sample in enumerate(samples):
            image: Any = sample
            if self.content.codec == "raw":
                shape = (sample.height, sample.width, self.content.channels)
                image = np.frombuffer(sample.payload, np.uint8).reshape(shape)
            if index < len(metadata):  # packing says that there are more
                row = (image, sample.label, index)
                handle_sample(row, index, writer.metadata_type.names, metadata, allocator, writer.fields)

    def reader(self, split: str) -> FfcvReader:
        return FfcvReader(self, split)

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> FfcvFeed:
        return FfcvFeed(self, split, plan, shape)

    @property
    def custom(self) -> dict[str, Any]:
        """What FFCV must be told of the file's fields: JPEGs are read by its own field."""
        return {"image": RGBImageField} if self.content.codec == "jpeg" else {}


class _Given:
    """A traversal order that is given for each epoch."""

    def __init__(self) -> None:
        self.order: Any = ()

    def sample_order(self, _: int) -> Any:
        return self.order


class FfcvFeed(Feed):
    """FFCV's loader, with the page cache holding the file, as its guide advises for data that fits memory."""

    store: FfcvStore
    path_taken = "FFCV Loader, os_cache"

    def __init__(self, store: FfcvStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        super().__init__(store, split, plan, shape)
        self._order = _Given()

    def batches(self, asked: Key) -> Iterator[Batch]:
        from loaders.engine import Batch

        self._order.order = self.loader.first_traversal_order = asked.indices.astype(np.uint64)
        running = iter(self.loader)
        try:
            for images, labels, indices in running:
                yield Batch(images, labels.view(-1).clone(), indices.view(-1).numpy().copy())
        finally:
            _stop(running)

    def _made(self) -> Any:
        try:
            found = Loader(
                str(self.store.file(self.split)),
                batch_size=self.plan.batch_size,
                num_workers=max(1, self.plan.workers),
                os_cache=True,
                drop_last=False,
                custom_fields=self.store.custom,
                pipelines={
                    "image": [self._decoder(), ToTensor(), ToTorchImage()],
                    "label": [IntDecoder(), ToTensor()],
                    "index": [IntDecoder(), ToTensor()],
                },
            )
        except (OSError, AssertionError, ValueError, IndexError) as error:
            raise StoreCorrupt(self.store.root, f"{self.split}.beton can't be opened ({error})") from error
        found.traversal_order = self._order
        return found

    def _decoder(self) -> Any:
        size = (self.plan.image_size, self.plan.image_size)
        if self.content.shape is not None:
            return NDArrayDecoder() if self.content.channels == 1 else SimpleRGBImageDecoder()
        if self.plan.training:
            return RandomResizedCropRGBImageDecoder(size, scale=AREA, ratio=RATIO)
        return CenterCropRGBImageDecoder(size, ratio=1 / EVALUATION_MARGIN)


def _stop(running: Any) -> None:
    """End FFCV's thread, also where it waits for room in its queue; it must not read a file that is let go of."""
    running.terminate_event.set()
    while running.is_alive():
        try:
            running.output_queue.get(timeout=0.01)
        except queue.Empty:
            continue
    running.close()


class FfcvReader(FeedReader[Any]):
    """FFCV's own reader of the file's tables, and the file."""

    store: FfcvStore

    def _open(self) -> Any:
        file = self.store.file(self.split)
        try:
            return BetonReader(str(file), self.store.custom), np.memmap(file, np.uint8, mode="r")
        except (OSError, AssertionError, ValueError, IndexError) as error:
            raise StoreCorrupt(self.store.root, f"{self.split}.beton can't be opened ({error})") from error

    @lazy
    def labels(self) -> Labels:
        labels: Labels = np.array(self.handle[0].metadata["f1"], dtype=np.int64).reshape(-1)
        return labels

    @lazy
    def _lengths(self) -> dict[int, int]:
        return {int(row["ptr"]): int(row["size"]) for row in self.handle[0].alloc_table}

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        beton, data = self.handle
        image = beton.metadata["f0"]
        starts = [int(start) for start in (image["data_ptr"] if image.dtype.names else image.reshape(-1))[indices]]
        return [data[start : start + self._lengths[start]] for start in starts]
