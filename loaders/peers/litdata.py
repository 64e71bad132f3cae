"""``litdata``: LitData's chunks, read by its own loader."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litdata
import numpy as np
import torch
from litdata.streaming.cache import Cache
from torchvision import io, transforms

from datasets.errors import StoreCorrupt
from loaders.codec import Buffer
from loaders.feed import Feed, FeedReader, FeedStore, Promise
from loaders.lazy import lazy
from loaders.mapping import check_bounds
from loaders.order import Indices
from loaders.peers import cropping
from loaders.store import Labels, Sample

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

# As LitData's README has it.
_CHUNK = "64MB"
# Its reader deletes chunks of a remote data set when its cache is full; here they are the data set.
_NEVER_FULL = "1000000GB"


class LitdataStore(FeedStore):
    """``<split>/chunk-*.bin``: a sample is (payload, class, index, height, width).

    Bytes are LitData's fastest field for pixels: arrays were read at a fifth of their speed, tensors at a twentieth
    (litdata 0.2.76, CIFAR-10, batches collated as below).
    """

    name = "litdata"
    whole = True

    @property
    def differences(self) -> Mapping[Promise, str]:
        found: dict[Promise, str] = {
            "order": "chunks are shuffled, and within a chunk blocks of 256 samples and the samples of each block"
        }
        return found if self.content.shape is not None else {**found, "pixels": cropping.OWN_DRAWS}

    def folder(self, split: str) -> Path:
        """The chunks of a split."""
        return self.root / split

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        self.folder(split).mkdir()
        # ``litdata.optimize`` starts processes that each read the source; this is the writer in them.
        cache = Cache(str(self.folder(split)), chunk_bytes=_CHUNK)
        for index, sample in enumerate(samples):
            cache[index] = (bytes(sample.payload), sample.label, index, sample.height, sample.width)
        cache.done()
        cache.merge()
        os.sync()  # one call for all its files

    def reader(self, split: str) -> LitdataReader:
        return LitdataReader(self, split)

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> LitdataFeed:
        return LitdataFeed(self, split, plan, shape)

    def open(self, split: str, **options: Any) -> Any:
        """LitData's data set.

        Raises:
            StoreCorrupt: its files can't be read, or hold more or fewer samples.
        """
        try:
            found = litdata.StreamingDataset(str(self.folder(split)), drop_last=False, max_cache_size=_NEVER_FULL, **options)
            count = len(found)
        except Exception as error:  # a damaged index fails in many ways
            raise StoreCorrupt(self.root, f"{split} can't be opened ({error})") from error
        if count != self.content.counts[split]:
            raise StoreCorrupt(self.root, f"{split} holds {count} samples where {self.content.counts[split]} belong")
        return found


class _Decode:
    """A sample with its payload decoded to (H, W, C)."""

    def __init__(self, store: LitdataStore, plan: Plan, shape: tuple[int, int, int]) -> None:
        self._codec, self._channels, self._shape = store.content.codec, store.content.channels, shape
        self._mode = io.ImageReadMode.GRAY if shape[2] == 1 else io.ImageReadMode.RGB
        self._crop = None if store.content.shape is not None else transforms.Compose(cropping.steps(store.content, plan))

    def __call__(self, sample: Any) -> tuple[Any, int, int]:
        payload, label, index, height, width = sample
        flat = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        if self._codec == "raw":
            picture = flat.reshape(height, width, self._channels).permute(2, 0, 1)
        else:
            picture = io.decode_image(flat, self._mode)
        if self._crop is not None:
            picture = self._crop(picture)
        return picture.permute(1, 2, 0), int(label), int(index)


class _Joined:
    """Raw pictures of one size as a batch: joined, with no Python call a picture."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape

    def __call__(self, samples: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pixels = torch.frombuffer(bytearray().join(sample[0] for sample in samples), dtype=torch.uint8)
        labels, indices = ([int(sample[place]) for sample in samples] for place in (1, 2))
        return pixels.reshape(-1, *self._shape), torch.tensor(labels), torch.tensor(indices)


class LitdataFeed(Feed):
    """``StreamingDataset`` in ``StreamingDataLoader``, shuffled as it does by default."""

    store: LitdataStore
    path_taken = "StreamingDataLoader over local chunks"

    def batches(self, asked: Key) -> Iterator[Batch]:
        from loaders.engine import Batch

        self.loader.current_epoch = asked.epoch  # its next iteration is the epoch after
        for pictures, labels, indices in self.loader:
            yield Batch(pictures.permute(0, 3, 1, 2), labels, indices.numpy())

    def _made(self) -> Any:
        joined = self.content.record_bytes is not None
        decode = {} if joined else {"transform": _Decode(self.store, self.plan, self.shape)}
        return litdata.StreamingDataLoader(
            self.store.open(self.split, shuffle=self.plan.shuffle, seed=self.plan.seed, **decode),
            batch_size=self.plan.batch_size,
            num_workers=self.plan.workers,
            persistent_workers=self.plan.workers > 0,
            multiprocessing_context="fork" if self.plan.workers else None,
            pin_memory=self.plan.pin_memory,
            **({"collate_fn": _Joined(self.shape)} if joined else {}),
        )

    def close(self) -> None:
        super().close()
        gc.collect()  # LitData's loader and its iterator hold each other, and with them their workers


class LitdataReader(FeedReader[Any]):
    """LitData's own random access."""

    store: LitdataStore

    def _open(self) -> Any:
        return self.store.open(self.split)

    @lazy
    def labels(self) -> Labels:
        return np.array([self.handle[index][1] for index in range(len(self))], dtype=np.int64)

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        return [self.handle[int(index)][0] for index in indices]
