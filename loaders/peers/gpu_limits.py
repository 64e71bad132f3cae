"""Two bounds that ``gpu_mmap`` is held against on a GPU; neither is a way to store pictures.

``gpu_copy`` copies pinned memory to the device, as fast as the bus goes. ``gpu_array`` is a loader written by hand for one
data set that lies on the device whole, of the kind that the fastest CIFAR-10 trainings use (airbench and its forebears):
everything is cropped and mirrored once an epoch by indexing, and a batch is a slice of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datasets.errors import Unavailable
from loaders import gpu
from loaders.augment import Augment
from loaders.backends.gpu_mmap import BUS_GROUP_BYTES
from loaders.backends.mmap import MmapReader, MmapStore
from loaders.feed import Feed, FeedStore, Promise
from loaders.gpu import CudaGpu, Gpu
from loaders.manifest import Content
from loaders.order import Indices
from loaders.store import Availability
from loaders.tensor_augment import Cutter

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

PADDING = 4  # He et al. 2016, section 4.2, for 32 x 32 pictures
AHEAD = 2  # copies under way, so that one follows the other
CUT = 1 << 14  # pictures that are cropped at once: the index of an epoch's pixels would take more than its pictures


class _GpuStore(MmapStore, FeedStore):
    """The files of ``mmap``, read whole when the first epoch starts."""

    engines = ("native",)

    @classmethod
    def check(cls) -> Availability:
        return gpu.availability()

    @classmethod
    def refuses(cls, content: Content) -> str:
        return "" if content.record_bytes is not None else "it holds raw pictures of one size"

    def gpu(self) -> Gpu:
        """The device of this store's feeds."""
        return CudaGpu()


class _GpuFeed(Feed):
    """Feeds whose store stands whole in ``self.loader``, uint8 (n, H, W, C)."""

    def __init__(self, store: _GpuStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        super().__init__(store, split, plan, shape)
        self._gpu, self._reader = store.gpu(), MmapReader(store, split)

    def _pinned(self) -> torch.Tensor:
        self._gpu.start()
        pictures = self._gpu.pinned((len(self._reader), *self.shape))
        np.copyto(pictures.numpy().reshape(len(self._reader), -1), self._reader.handle.data)
        return pictures

    def close(self) -> None:
        super().close()
        self._reader.close()


class GpuCopyStore(_GpuStore):
    """Copies of pinned memory in its own order: the bound of everything that crosses the bus."""

    name = "gpu_copy"

    @property
    def differences(self) -> Mapping[Promise, str]:
        return {"order": "it copies pictures in the order in which they stand: a bound of the bus, not a loader"}

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> GpuCopyFeed:
        return GpuCopyFeed(self, split, plan, shape)


class GpuCopyFeed(_GpuFeed):
    """Copies of several batches each, on a side stream, some of them ahead."""

    path_taken = "copies of contiguous pinned memory"

    def _made(self) -> torch.Tensor:
        return self._pinned()

    def batches(self, asked: Key) -> Iterator[Batch]:
        if len(asked.indices) != len(self._reader):
            raise Unavailable(self.store.name, "it copies whole splits", "leave out limit")
        held = np.arange(len(asked.indices))
        batch_bytes = self.plan.batch_size * int(np.prod(self.shape))
        size = self.plan.batch_size * max(1, BUS_GROUP_BYTES // batch_bytes)
        under_way: deque[tuple[Batch, Any]] = deque()
        for start in range(0, len(held), size):
            under_way.append(self._copied(held[start : start + size]))
            if len(under_way) > AHEAD:
                yield from self._joined(*under_way.popleft())
        while under_way:
            yield from self._joined(*under_way.popleft())

    def _copied(self, indices: Indices) -> tuple[Batch, Any]:
        """Several batches by one copy, as ``stream`` gathers them."""
        from loaders.engine import Batch

        with self._gpu.beside():
            images = self.loader[int(indices[0]) : int(indices[-1]) + 1].to(self._gpu.device, non_blocking=True)
            labels = self._gpu.upload(self._reader.labels_at(indices))
            return Batch(images.permute(0, 3, 1, 2), labels, indices), self._gpu.mark()

    def _joined(self, group: Batch, mark: Any) -> Iterator[Batch]:
        self._gpu.join(mark, group.images, group.labels)
        for start in range(0, len(group.indices), self.plan.batch_size):
            part = slice(start, start + self.plan.batch_size)
            yield type(group)(group.images[part], group.labels[part], group.indices[part])


class GpuArrayStore(_GpuStore):
    """A GPU-resident array, augmented by the epoch, by hand-written code for one data set."""

    name = "gpu_array"

    @property
    def augments(self) -> bool:
        return True

    @property
    def differences(self) -> Mapping[Promise, str]:
        return {"pixels": "it crops and mirrors by draws of the GPU's own, before its batches are handed over"}

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> GpuArrayFeed:
        return GpuArrayFeed(self, split, plan, shape)


class GpuArrayFeed(_GpuFeed):
    """Framed once; cropped, mirrored and put in order once an epoch by one index; then cut into batches.

    It draws by the GPU's own generator, and waits for nothing.
    """

    path_taken = "an array on the GPU, augmented by the epoch"

    def _made(self) -> torch.Tensor:
        pictures = self._pinned().to(self._gpu.device)
        augment = Augment((PADDING, PADDING), (0,) * self.shape[2])
        self._sides, self._cutter = augment.sides, Cutter(augment, self.shape[:2], self._gpu.device)
        return self._cutter.framed(pictures)

    def batches(self, asked: Key) -> Iterator[Batch]:
        from loaders.engine import Batch

        framed, size = self.loader, self.plan.batch_size
        order, labels = self._gpu.upload(np.stack((asked.indices, self._reader.labels_at(asked.indices)))).unbind(0)
        for start in range(0, len(order), size * max(1, CUT // size)):
            part = slice(start, start + size * max(1, CUT // size))
            images = torch.split(self._cropped(framed, order[part]).permute(0, 3, 1, 2), size)
            for number, (picture, label) in enumerate(zip(images, torch.split(labels[part], size), strict=True)):
                begin = start + number * size
                yield Batch(picture, label, asked.indices[begin : begin + size])

    def _cropped(self, framed: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        if not self.plan.training:
            centre = torch.tensor([[PADDING], [PADDING], [0]], device=which.device)
            return self._cutter.cut(framed, which, centre.expand(3, len(which)))
        drawn = torch.stack([torch.randint(side, (len(which),), device=which.device) for side in self._sides])
        return self._cutter.cut(framed, which, drawn)
