"""``webdataset``: tar shards, read by WebDataset's own loader."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import webdataset as wds
from torchvision import transforms

from datasets.errors import StoreCorrupt
from loaders.codec import EXTENSION, Buffer
from loaders.feed import Feed, FeedReader, FeedStore, Promise
from loaders.mapping import check_bounds
from loaders.order import Indices
from loaders.peers import cropping
from loaders.store import Labels, Sample

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan

# Shards are dealt to workers whole: enough of them for a worker to have several, none larger than its manual advises.
_SHARDS = 16
_SHARD_BYTES = 256e6
# The buffer that samples are drawn from, as in WebDataset's README.
_SHUFFLED = 1000


class WebDatasetStore(FeedStore):
    """``<split>-<number>.tar``: for each sample ``<index>.<codec>`` and ``<index>.cls``."""

    name = "webdataset"
    whole = True

    @property
    def differences(self) -> Mapping[Promise, str]:
        found: dict[Promise, str] = {
            "order": f"shards are shuffled, and within each worker's stream a buffer of {_SHUFFLED:,} samples"
        }
        return found if self.content.shape is not None else {**found, "pixels": cropping.OWN_DRAWS}

    @property
    def member(self) -> str:
        """What a picture's file name ends with; ``bin``: pixels, which WebDataset's decoders leave alone."""
        return "bin" if self.content.codec == "raw" else EXTENSION[self.content.codec]

    def shards(self, split: str) -> list[str]:
        """The tar files of a split.

        Raises:
            StoreCorrupt: there is none.
        """
        found = sorted(map(str, self.root.glob(f"{split}-*.tar")))
        if not found:
            raise StoreCorrupt(self.root, f"it has no shard of {split}")
        return found

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        most = -(-self.content.counts[split] // _SHARDS)
        with wds.ShardWriter(str(self.root / f"{split}-%06d.tar"), maxcount=most, maxsize=_SHARD_BYTES, verbose=0) as writer:
            for index, sample in enumerate(samples):
                picture = bytes(sample.payload)
                size = {} if self.content.shape is not None else {"size": b"%d %d" % (sample.height, sample.width)}
                writer.write({"__key__": f"{index:08d}", self.member: picture, "cls": b"%d" % sample.label, **size})
        os.sync()  # one call for all its files

    def reader(self, split: str) -> WebDatasetReader:
        return WebDatasetReader(self, split)

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> WebDatasetFeed:
        return WebDatasetFeed(self, split, plan, shape)


class _Decode:
    """A sample as it comes out of a tar file to (picture (H, W, C), class, index)."""

    def __init__(self, store: WebDatasetStore, plan: Plan, shape: tuple[int, int, int]) -> None:
        self._member, self._channels = store.member, store.content.channels
        self._codec, self._shape = store.content.codec, shape
        self._sized = store.content.shape is not None
        self._crop = transforms.Compose(cropping.steps(store.content, plan))
        grey = store.content.channels == 1
        # By WebDataset's own decoders: bytes to an array, or to a Pillow picture where it is cropped.
        self._image = wds.autodecode.ImageHandler(("l8" if grey else "rgb8") if self._sized else ("pill" if grey else "pilrgb"))

    def __call__(self, sample: dict[str, Any]) -> tuple[Any, int, int]:
        return self._picture(sample), int(sample["cls"]), int(sample["__key__"])

    def _picture(self, sample: dict[str, Any]) -> Any:
        data = sample[self._member]
        if self._codec == "raw":
            if self._sized:
                return np.frombuffer(data, np.uint8).reshape(self._shape)
            height, width = map(int, sample["size"].split())
            pixels = np.frombuffer(data, np.uint8).reshape(height, width, self._channels)
            picture = transforms.functional.to_pil_image(pixels)
        else:
            picture = self._image(self._member, data)
        return np.asarray(picture if self._sized else self._crop(picture)).reshape(self._shape)


class WebDatasetFeed(Feed):
    """Shards shuffled, samples shuffled in a buffer, decoded and batched in the workers, as WebDataset's README has it."""

    store: WebDatasetStore
    path_taken = "WebLoader over tar shards"

    def batches(self, asked: Key) -> Iterator[Batch]:  # noqa: ARG002 - WebDataset draws from its own seed
        from loaders.engine import Batch

        for pictures, labels, indices in self.loader:
            images = torch.as_tensor(pictures).permute(0, 3, 1, 2)
            yield Batch(images, torch.as_tensor(labels, dtype=torch.int64), np.asarray(indices, dtype=np.int64))

    def _made(self) -> Any:
        shards, shuffle = self.store.shards(self.split), self.plan.shuffle
        samples = wds.WebDataset(
            shards,
            shardshuffle=len(shards) if shuffle else False,
            detshuffle=True,
            seed=self.plan.seed,
            empty_check=False,  # a worker may have no shard
        )
        if shuffle:
            samples = samples.compose(wds.detshuffle(_SHUFFLED, seed=self.plan.seed))
        batched = samples.map(_Decode(self.store, self.plan, self.shape)).batched(self.plan.batch_size, partial=True)
        return wds.WebLoader(
            batched,
            batch_size=None,
            num_workers=self.plan.workers,
            persistent_workers=self.plan.workers > 0,
            multiprocessing_context="fork" if self.plan.workers else None,
            pin_memory=self.plan.pin_memory,
        )


class _Member(NamedTuple):
    shard: int
    offset: int
    size: int


class _Index(NamedTuple):
    files: list[Any]
    pictures: list[_Member]
    labels: Labels


class WebDatasetReader(FeedReader[_Index]):
    """Goes through the shards once for where each member lies."""

    store: WebDatasetStore

    def _open(self) -> _Index:
        shards = self.store.shards(self.split)
        pictures: dict[int, _Member] = {}
        labels: dict[int, int] = {}
        try:
            for number, shard in enumerate(shards):
                with tarfile.open(shard) as archive:
                    for member in archive:
                        index, _, kind = member.name.partition(".")
                        if kind == "cls":
                            held = archive.extractfile(member)
                            labels[int(index)] = int((held or io.BytesIO()).read())
                        elif kind == self.store.member:
                            pictures[int(index)] = _Member(number, member.offset_data, member.size)
        except (OSError, ValueError, tarfile.TarError) as error:
            raise StoreCorrupt(self.store.root, f"a shard of {self.split} can't be read ({error})") from error
        if sorted(pictures) != list(range(len(self))) or sorted(labels) != sorted(pictures):
            raise StoreCorrupt(self.store.root, f"{self.split} holds {len(pictures)} pictures where {len(self)} belong")
        every = range(len(self))
        return _Index([Path(shard).open("rb") for shard in shards], [pictures[i] for i in every], _column(labels, every))

    def _close(self, handle: _Index) -> None:
        for file in handle.files:
            file.close()

    @property
    def labels(self) -> Labels:
        return self.handle.labels

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        return [self._payload(self.handle.pictures[index]) for index in indices]

    def _payload(self, member: _Member) -> bytes:
        return os.pread(self.handle.files[member.shard].fileno(), member.size, member.offset)


def _column(labels: Mapping[int, int], every: range) -> Labels:
    return np.array([labels[index] for index in every], dtype=np.int64)
