"""Tiny ImageNet (Stanford CS231n, 2015): 200 classes of ImageNet, 64 x 64 pixels, as the publisher's JPEG files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from datasets.archive import Archive, doubt
from datasets.errors import DatasetCorrupt
from datasets.picture_files import Picture, PictureFiles
from datasets.published import find, judge
from datasets.source import SourceInfo
from datasets.tree import File, again, fingerprint, read_lines, scan, subfolders


class TinyImageNet(PictureFiles):
    """Tiny ImageNet: 100,000 and 10,000 pictures in 200 classes.

    Labels follow the order of ``wnids.txt``. ``train`` goes class by class in that order, and within a class by the number
    in the file's name (2 before 10). ``val`` follows ``val_annotations.txt`` line by line.

    Args:
        data_dir: the folder that holds ``tiny-imagenet-200/`` or ``tiny-imagenet-200.zip``.
        allow_unverified: read a tree that can't be shown to be the published one, too.

    Raises:
        DatasetMissing: nothing of it is there, or a file or folder is missing.
        DatasetCorrupt: a class without pictures, a label without a class, a picture that is named but not there.
        DatasetUnverified: Loadstone did not unpack it from the published zip, or it has changed; unless ``allow_unverified``.
        RoomError: the zip can't be unpacked for want of room or permission.
    """

    name: ClassVar[str] = "tiny-imagenet"
    published: ClassVar[Mapping[str, int]] = {"train": 100_000, "val": 10_000}
    # The publisher states no MD5; this is the one that other published code checks.
    archive: ClassVar[Archive] = Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", "tiny-imagenet-200"
    )

    def __init__(self, data_dir: Path, *, allow_unverified: bool = False) -> None:
        find(self.name, self.archives(), data_dir, allow_unverified=allow_unverified)
        root = data_dir / self.archive.folder
        self._root, self._name = root, self.name
        classes = self._classes()
        files = scan(self.name, root)
        pictures = {"train": self._train(classes, files), "val": self._val(classes, files)}
        super().__init__(self.name, root, pictures)
        counts = {split: len(listed) for split, listed in pictures.items()}
        name, verification = judge(
            self.name, root, doubt(root, files, self.archive), counts, self.published, allow_unverified=allow_unverified
        )
        self.info = SourceInfo(
            name=name,
            classes=tuple(classes),
            counts=counts,
            shape=(64, 64, 3),
            channels=3,
            codec="jpeg",
            verification=verification,
            fingerprint=fingerprint(files),
            mean=(0.4802, 0.4481, 0.3975),
            std=(0.2770, 0.2691, 0.2821),
            licence="none stated; ImageNet's terms: research and teaching only",
            homepage="https://cs231n.stanford.edu/",
        )

    @classmethod
    def archives(cls) -> tuple[Archive, ...]:
        """What can be downloaded."""
        return (cls.archive,)

    def _classes(self) -> list[str]:
        path = self._root / "wnids.txt"
        classes = [line.strip() for line in read_lines(self.name, path)]
        if not classes or len(set(classes)) != len(classes):
            raise self._corrupt(path, "names no class, or one twice")
        for folder in subfolders(self.name, self._root / "train"):
            if folder not in classes:
                raise self._corrupt(self._root / "train" / folder, "is not in wnids.txt")
        return classes

    def _train(self, classes: list[str], files: list[File]) -> list[Picture]:
        of_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
        for path, _, _ in files:
            match path.split("/"):
                case ["train", wnid, "images", file] if file.upper().endswith(".JPEG"):
                    of_class[wnid].append(path)
        for wnid, paths in of_class.items():
            if not paths:
                raise self._corrupt(self._root / "train" / wnid / "images", "holds no JPEG picture")
            paths.sort(key=_number)
        return [Picture(path, label) for label, wnid in enumerate(classes) for path in of_class[wnid]]

    def _val(self, classes: list[str], files: list[File]) -> list[Picture]:
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        there = {path for path, _, _ in files}
        annotations = self._root / "val" / "val_annotations.txt"
        pictures = []
        for number, line in enumerate(read_lines(self.name, annotations), 1):
            file, wnid, *_ = [*line.split("\t"), ""]
            if wnid not in label_of:
                raise self._corrupt(
                    annotations, f"line {number} gives {file} the class {wnid!r}, which wnids.txt does not have"
                )
            if f"val/images/{file}" not in there:
                raise self._corrupt(annotations, f"line {number} names {file}, which is not in val/images")
            pictures.append(Picture(f"val/images/{file}", label_of[wnid]))
        if not pictures:
            raise self._corrupt(annotations, "names no picture")
        return pictures

    def _corrupt(self, where: Path, what: str) -> DatasetCorrupt:
        return DatasetCorrupt(self.name, where, what, again(self.name, self._root))


def _number(path: str) -> tuple[int, str]:
    """Sort key: the last number in a file's name, then the whole of it."""
    numbers = re.findall(r"\d+", path.rpartition("/")[2])
    return (int(numbers[-1]) if numbers else -1), path
