"""``imagefolder`` and ``cifar10_torchvision``: torchvision's own data sets and a DataLoader, as people write them.

DataLoader is given the project's order as its ``sampler``, where people write ``shuffle=True``: the cost is the same, and the
order is exact.
"""

from __future__ import annotations

import os
import pickle
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torchvision import datasets, transforms

from datasets.errors import StoreCorrupt
from loaders.backends.filesystem import FilesystemStore
from loaders.codec import Buffer
from loaders.feed import Feed, FeedReader, FeedStore, Promise
from loaders.lazy import lazy
from loaders.manifest import CodecName, Content
from loaders.mapping import check_bounds
from loaders.order import Indices
from loaders.peers import cropping
from loaders.store import Labels, Sample

if TYPE_CHECKING:
    from loaders.engine import Batch, Key, Plan


class _Places(torch.utils.data.Sampler[int]):
    """The places in the data set that DataLoader asks for next."""

    def __init__(self) -> None:
        self.next: list[int] = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.next)

    def __len__(self) -> int:
        return len(self.next)


class DataLoaderFeed(Feed):
    """A data set of (picture, class) pairs in PyTorch's DataLoader, collated by default."""

    def __init__(self, store: FeedStore, split: str, plan: Plan, shape: tuple[int, int, int]) -> None:
        super().__init__(store, split, plan, shape)
        self._sampler = _Places()

    @abstractmethod
    def dataset(self) -> Any:
        """Open the data set; labels and pictures of the whole split are known after."""

    def places(self, order: Indices) -> list[int]:
        """Where the data set has the pictures that a store numbers so."""
        return [int(index) for index in order]

    def labels(self, found: torch.Tensor) -> torch.Tensor:
        """The project's class numbers of those of the data set."""
        return found

    def batches(self, asked: Key) -> Iterator[Batch]:
        from loaders.engine import Batch

        loader = self.loader  # made before places are asked for: the data set knows them once it is open
        self._sampler.next = self.places(asked.indices)
        size = self.plan.batch_size
        for number, (images, labels) in enumerate(loader):
            yield Batch(images, self.labels(labels), asked.indices[number * size : (number + 1) * size])

    def _made(self) -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader(
            self.dataset(),
            batch_size=self.plan.batch_size,
            sampler=self._sampler,
            num_workers=self.plan.workers,
            persistent_workers=self.plan.workers > 0,
            multiprocessing_context="fork" if self.plan.workers else None,
            pin_memory=self.plan.pin_memory,
        )

    def transform(self) -> Any:
        """What people write, but for ``PILToTensor`` in place of ``ToTensor``: bytes, which the device scales."""
        grey = [transforms.Grayscale()] if self.content.channels == 1 else []
        return transforms.Compose([*cropping.steps(self.content, self.plan), *grey, transforms.PILToTensor()])


class ImageFolderStore(FeedStore, FilesystemStore):
    """The files of ``filesystem``."""

    name = "imagefolder"

    @property
    def differences(self) -> Mapping[Promise, str]:
        return {} if self.content.shape is not None else {"pixels": cropping.OWN_DRAWS}

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> ImageFolderFeed:
        return ImageFolderFeed(self, split, plan, shape)


class ImageFolderFeed(DataLoaderFeed):
    """``torchvision.datasets.ImageFolder``, which numbers pictures class by class, and classes by name."""

    path_taken = "ImageFolder and DataLoader"

    def dataset(self) -> Any:
        root = self.store.root / self.split
        try:
            found = datasets.ImageFolder(str(root), transform=self.transform())
        except (OSError, RuntimeError) as error:
            raise StoreCorrupt(self.store.root, f"{self.split} is no folder of classes ({error})") from error
        numbers = np.array([int(Path(path).stem) for path, _ in found.samples])
        count = self.content.counts[self.split]
        if len(numbers) != count:
            raise StoreCorrupt(self.store.root, f"{self.split} holds {len(numbers)} pictures where {count} belong")
        self._place = np.argsort(numbers)
        self._label = torch.tensor([self.content.classes.index(name) for name in found.classes])
        return found

    def places(self, order: Indices) -> list[int]:
        places: list[int] = self._place[order].tolist()
        return places

    def labels(self, found: torch.Tensor) -> torch.Tensor:
        return self._label[found]


_FOLDER = "cifar-10-batches-py"
_FILES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "val": ["test_batch"]}


class _Cifar10(datasets.CIFAR10):  # type: ignore[misc] # torchvision has no types
    """torchvision's class, as it comes, but that it does not ask for the checksums of the published files."""

    base_folder = _FOLDER
    train_list: ClassVar[list[list[str | None]]] = [[name, None] for name in _FILES["train"]]
    test_list: ClassVar[list[list[str | None]]] = [[name, None] for name in _FILES["val"]]
    meta: ClassVar[dict[str, str | None]] = {"filename": "batches.meta", "key": "label_names", "md5": None}


class Cifar10TorchvisionStore(FeedStore):
    """``cifar-10-batches-py``: pickles such as CIFAR-10 is published in for Python. They hold 32 x 32 pictures in colour."""

    name = "cifar10_torchvision"
    codecs: ClassVar[tuple[CodecName, ...]] = ("raw",)

    @classmethod
    def refuses(cls, content: Content) -> str:
        if content.shape != (32, 32, 3):
            return "torchvision's CIFAR10 holds colour pictures of 32 x 32 pixels"
        return super().refuses(content)

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        folder = self.root / _FOLDER
        folder.mkdir(exist_ok=True)
        names = _FILES[split]
        length = -(-self.content.counts[split] // len(names))
        for name in names:
            rows = [sample for _, sample in zip(range(length), samples, strict=False)]
            pixels = np.frombuffer(b"".join(row.payload for row in rows), np.uint8).reshape(-1, 32 * 32, 3)
            _dump(
                folder / name,
                {"data": pixels.transpose(0, 2, 1).reshape(len(rows), 3072), "labels": [row.label for row in rows]},
            )
        for _ in samples:  # more than belong; packing says so
            pass
        _dump(folder / "batches.meta", {"label_names": list(self.content.classes)})

    def reader(self, split: str) -> Cifar10TorchvisionReader:
        return Cifar10TorchvisionReader(self, split)

    def feed(self, split: str, plan: Plan, shape: tuple[int, int, int]) -> Cifar10TorchvisionFeed:
        return Cifar10TorchvisionFeed(self, split, plan, shape)

    def open(self, split: str, transform: Any = None) -> Any:
        """The data set, as torchvision has it.

        Raises:
            StoreCorrupt: its files can't be read.
        """
        try:
            found = _Cifar10(str(self.root), train=split == "train", transform=transform)
        except Exception as error:  # a damaged pickle fails in many ways
            raise StoreCorrupt(self.root, f"{_FOLDER} can't be read ({error})") from error
        if len(found) != self.content.counts[split]:
            raise StoreCorrupt(self.root, f"{_FOLDER} holds {len(found)} pictures where {self.content.counts[split]} belong")
        return found


def _dump(file: Path, content: dict[str, Any]) -> None:
    with file.open("wb") as opened:
        pickle.dump(content, opened, protocol=4)
        opened.flush()
        os.fsync(opened.fileno())


class Cifar10TorchvisionFeed(DataLoaderFeed):
    """``torchvision.datasets.CIFAR10``, which keeps the order of its files."""

    store: Cifar10TorchvisionStore
    path_taken = "CIFAR10 and DataLoader"

    def dataset(self) -> Any:
        return self.store.open(self.split, self.transform())


class Cifar10TorchvisionReader(FeedReader[Any]):
    """torchvision's array of all pictures, in RAM."""

    store: Cifar10TorchvisionStore

    def _open(self) -> Any:
        return self.store.open(self.split)

    @lazy
    def labels(self) -> Labels:
        return np.array(self.handle.targets, dtype=np.int64)

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        return [self.handle.data[index].tobytes() for index in indices]
