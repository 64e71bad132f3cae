"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

Both are read in their binary and in their Python version, whichever is there, the binary one first. The two hold the same
pictures in the same order. The MD5 sums of the Python versions are those in torchvision's source (a test compares them);
those of the binary CIFAR-10 are of the files in the archive whose MD5 the publisher states. The publisher's page states
none for the files of the binary CIFAR-100: there, the seal of ``datasets.archive`` is the proof.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.archive import Archive, doubt
from datasets.errors import DatasetCorrupt
from datasets.pickles import Array, load_mapping
from datasets.published import find, judge
from datasets.source import Block, Example, Source, SourceInfo, check_split
from datasets.tree import again, read_bytes, scan

SIDE = 32
PIXELS = 3 * SIDE * SIDE
CHUNK = 1000

_HOME = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Form:
    """One of the versions that a CIFAR is published in.

    Attributes:
        archive: what holds it.
        train, val: the files with the pictures, in order.
        names: the file with the class names.
        pickled: whether they are Python pickles.
        md5: of every file; empty where none is published.
    """

    archive: Archive
    train: tuple[str, ...]
    val: tuple[str, ...]
    names: str
    pickled: bool
    md5: Mapping[str, str]


class _Batch(NamedTuple):
    labels: npt.NDArray[np.int64]
    planes: npt.NDArray[np.uint8]  # (n, 3072): the red, the green and the blue plane, each row by row


class Cifar10(Source):
    """CIFAR-10: 50,000 and 10,000 pictures of 32 x 32, in 10 classes.

    ``train`` is ``data_batch_1`` to ``data_batch_5``, ``val`` is ``test_batch``, each in the file's order.

    Args:
        data_dir: the folder that holds ``cifar-10-batches-bin/``, ``cifar-10-batches-py/``, or an archive of one of them.
        allow_unverified: read files that differ from the published ones, too.

    Raises:
        DatasetMissing: nothing of it is there, or a file is missing.
        DatasetCorrupt: a file is cut short or damaged, or a label is out of range.
        DatasetUnverified: the MD5 sums differ, and ``allow_unverified`` is not set.
        RoomError: an archive can't be unpacked for want of room or permission.
    """

    name: ClassVar[str] = "cifar10"
    published: ClassVar[Mapping[str, int]] = {"train": 50_000, "val": 10_000}
    class_count: ClassVar[int] = 10
    label_bytes: ClassVar[int] = 1  # before each record's pixels; the last is the label
    labels_key: ClassVar[str] = "labels"
    names_key: ClassVar[str] = "label_names"
    # Over all pixels of the training pictures, in [0, 1] units. docs/datasets.md shows how to recompute them.
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)
    forms: ClassVar[tuple[Form, ...]] = (
        Form(
            Archive(_HOME + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"),
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            val=("test_batch.bin",),
            names="batches.meta.txt",
            pickled=False,
            md5={
                "batches.meta.txt": "728051cd483f366e254dddb25bead8b3",
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
            },
        ),
        Form(
            Archive(_HOME + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            val=("test_batch",),
            names="batches.meta",
            pickled=True,
            md5={
                "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
            },
        ),
    )

    def __init__(self, data_dir: Path, *, allow_unverified: bool = False) -> None:
        archive = find(self.name, self.archives(), data_dir, allow_unverified=allow_unverified)
        self._form = next(form for form in self.forms if form.archive == archive)
        self._folder = data_dir / archive.folder
        classes, sums = self._class_names()
        counts = {"train": 0, "val": 0}
        for split in counts:
            for file in self._files(split):
                data = self._bytes(file)
                sums[file] = _md5(data)
                counts[split] += len(self._batch(file, data).labels)
        name, verification = judge(
            self.name, self._folder, self._doubt(sums), counts, self.published, allow_unverified=allow_unverified
        )
        self.info = SourceInfo(
            name=name,
            classes=classes,
            counts=counts,
            shape=(SIDE, SIDE, 3),
            channels=3,
            codec="raw",
            verification=verification,
            fingerprint=hashlib.sha256("\n".join(f"{file} {sums[file]}" for file in sorted(sums)).encode()).hexdigest(),
            mean=self.mean,
            std=self.std,
            licence="none stated; cite Krizhevsky 2009",
            homepage=_HOME + "cifar.html",
        )

    @classmethod
    def archives(cls) -> tuple[Archive, ...]:
        """What can be downloaded, the preferred one first."""
        return tuple(form.archive for form in cls.forms)

    def examples(self, split: str) -> Iterator[Example]:
        for block in self.blocks(split):
            yield from map(Example, block.pictures, block.labels.tolist())

    def blocks(self, split: str) -> Iterator[Block]:
        check_split(split)
        for file in self._files(split):
            batch = self._batch(file, self._bytes(file))
            for start in range(0, len(batch.labels), CHUNK):
                part = slice(start, start + CHUNK)
                yield Block(_interleaved(batch.planes[part]), batch.labels[part])

    def _files(self, split: str) -> tuple[str, ...]:
        return self._form.train if split == "train" else self._form.val

    def _doubt(self, sums: Mapping[str, str]) -> str:
        """Why the files can't be taken for the published ones; empty where they can."""
        if not self._form.md5:
            return doubt(self._folder, scan(self.name, self._folder), self._form.archive)
        for file, wanted in self._form.md5.items():
            if sums[file] != wanted:
                return f"{file} has MD5 {sums[file]}, the published one is {wanted}"
        return ""

    def _class_names(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """The class names, and the MD5 of the file they are from."""
        path, data = self._folder / self._form.names, self._bytes(self._form.names)
        if self._form.pickled:
            (values,) = self._unpickle(path, data, self.names_key)
            if not isinstance(values, list):
                raise self._corrupt(path, f"its {self.names_key} are no list")
            names = [value.decode("latin1") if isinstance(value, bytes) else str(value) for value in values]
        else:
            names = data.decode("latin1").split()
        if len(set(names)) != self.class_count or len(names) != self.class_count:
            raise self._corrupt(path, f"names {len(names)} classes, not {self.class_count} different ones")
        return tuple(names), {self._form.names: _md5(data)}

    def _bytes(self, file: str) -> bytes:
        return read_bytes(self.name, self._folder / file)

    def _batch(self, file: str, data: bytes) -> _Batch:
        """The labels and pixels in a file's content, checked."""
        path = self._folder / file
        labels, planes = self._pickled(path, data) if self._form.pickled else self._records(path, data)
        wrong = np.flatnonzero((labels < 0) | (labels >= self.class_count))
        if wrong.size:
            first = int(wrong[0])
            raise self._corrupt(path, f"record {first} has label {labels[first]}, of {self.class_count} classes")
        return _Batch(labels, planes)

    def _records(self, path: Path, data: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        record = self.label_bytes + PIXELS
        if not data or len(data) % record:
            raise self._corrupt(path, f"{len(data):,} bytes are no whole number of {record}-byte records: cut short or damaged")
        rows = np.frombuffer(data, np.uint8).reshape(-1, record)
        return rows[:, self.label_bytes - 1].astype(np.int64), rows[:, self.label_bytes :]

    def _pickled(self, path: Path, data: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        labels, array = self._unpickle(path, data, self.labels_key, "data")
        if not isinstance(array, Array) or array.values.ndim != 2 or array.values.shape[1] != PIXELS:
            raise self._corrupt(path, f"its data are not rows of {PIXELS} bytes")
        if not isinstance(labels, list) or not all(isinstance(label, int) and abs(label) < 1 << 31 for label in labels):
            raise self._corrupt(path, f"its {self.labels_key} are no list of whole numbers")
        if len(labels) != len(array.values) or not labels:
            raise self._corrupt(path, f"{len(labels)} labels for {len(array.values)} pictures")
        return np.array(labels, np.int64), array.values

    def _unpickle(self, path: Path, data: bytes, *keys: str) -> list[Any]:
        try:
            content = load_mapping(data)
            return [content[key] for key in keys]
        except pickle.UnpicklingError as error:
            raise self._corrupt(path, f"is not the published pickle: {error}") from error
        except KeyError as error:
            raise self._corrupt(path, f"has no {error}") from error

    def _corrupt(self, path: Path, what: str) -> DatasetCorrupt:
        return DatasetCorrupt(self.name, path, what, again(self.name, self._folder))


class Cifar100(Cifar10):
    """CIFAR-100: as CIFAR-10, with 500 + 100 pictures of each of 100 classes; the label is the fine one."""

    name = "cifar100"
    class_count = 100
    label_bytes = 2
    labels_key = "fine_labels"
    names_key = "fine_label_names"
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    forms = (
        Form(
            Archive(_HOME + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary"),
            train=("train.bin",),
            val=("test.bin",),
            names="fine_label_names.txt",
            pickled=False,
            md5={},
        ),
        Form(
            Archive(_HOME + "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
            train=("train",),
            val=("test",),
            names="meta",
            pickled=True,
            md5={
                "meta": "7973b15100ade9c7d40fb424638fde48",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "train": "16019d7e3df5f24257cddd939b257f8d",
            },
        ),
    )


def _interleaved(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Planes of red, green and blue, (n, 3072), as pictures, (n, 32, 32, 3). A plane at a time takes a fifth of a transpose."""
    pictures = np.empty((len(planes), SIDE * SIDE, 3), np.uint8)
    for channel in range(3):
        pictures[:, :, channel] = planes[:, channel * SIDE * SIDE : (channel + 1) * SIDE * SIDE]
    return pictures.reshape(-1, SIDE, SIDE, 3)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
