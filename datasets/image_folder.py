"""Any tree of class folders, and Imagenette, which is published as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Self

from datasets.archive import Archive, doubt
from datasets.errors import DatasetCorrupt, DatasetMissing, UsageError
from datasets.picture import EXTENSIONS, NotAPicture, header_at
from datasets.picture_files import Picture, PictureFiles
from datasets.published import find, judge
from datasets.source import IMAGENET_MEAN, IMAGENET_STD, SourceInfo
from datasets.tree import File, fingerprint, scan, subfolders, unreadable

VAL_FOLDERS = ("val", "valid", "validation", "test")

# The weights of ITU-R BT.601 (Pillow's own for grey) over ImageNet's mean; the deviation is the mean of its three.
GREY_MEAN, GREY_STD = (0.4590,), (0.2260,)


class ImageFolder(PictureFiles):
    """Pictures in ``train/<class>/`` and ``val/<class>/`` (or ``valid``, ``validation``, ``test``: the first that is there).

    Classes, and the pictures within a class, have the order of torchvision's ``ImageFolder``: classes by name, pictures by
    folder and then name, at any depth. Every JPEG, PNG, WebP and BMP file counts, by its extension in any case; hidden and
    other files are left out.

    Args:
        root: the tree.
        name: for tables; ``image_folder:<root's name>`` if empty.

    Raises:
        DatasetMissing: there is no such folder, or none for a split.
        DatasetCorrupt: a class folder without pictures, a class that only ``val`` has, a file that is no picture.
    """

    def __init__(self, root: Path, name: str = "") -> None:
        name = name or f"image_folder:{root.resolve().name}"
        if not root.is_dir():
            raise DatasetMissing(name, root, "give a folder that holds train/<class>/ and val/<class>/")
        self._root, self._name = root, name
        folders = {"train": self._split_folder("train", ("train",)), "val": self._split_folder("val", VAL_FOLDERS)}
        classes = self._classes(folders)
        files = {split: scan(name, root, folder) for split, folder in folders.items()}
        super().__init__(name, root, {split: self._pictures_of(folders[split], classes, files[split]) for split in folders})
        shape, channels = self._shape()
        self.info = SourceInfo(
            name=name,
            classes=tuple(classes),
            counts={split: len(listed) for split, listed in self._pictures.items()},
            shape=shape,
            channels=channels,
            codec="jpeg",
            verification="own",
            fingerprint=fingerprint(files["train"] + files["val"]),
            mean=IMAGENET_MEAN if channels == 3 else GREY_MEAN,
            std=IMAGENET_STD if channels == 3 else GREY_STD,
            licence="the pictures' own",
        )

    @classmethod
    def from_argument(cls, argument: str, data_dir: Path) -> Self:
        """The folder ``argument``, relative to ``data_dir`` or absolute.

        Raises:
            UsageError: ``argument`` is empty.
        """
        cls.check_argument(argument)
        return cls(data_dir / Path(argument).expanduser())

    @staticmethod
    def check_argument(argument: str) -> None:
        """Refuse an argument that names no folder, there or not.

        Raises:
            UsageError: ``argument`` is empty.
        """
        if not argument:
            raise UsageError("image_folder needs a folder: image_folder:photos is the folder photos in --data-dir")

    def _split_folder(self, split: str, choices: tuple[str, ...]) -> str:
        for choice in choices:
            if (self._root / choice).is_dir():
                return choice
        raise DatasetMissing(f"the {split} split of {self._name}", self._root, f"put its class folders into {choices[0]}/")

    def _classes(self, folders: Mapping[str, str]) -> list[str]:
        classes, val = (subfolders(self._name, self._root / folders[split]) for split in ("train", "val"))
        for split, found in (("train", classes), ("val", val)):
            if not found:
                raise self._corrupt(
                    folders[split], "holds no class folders", "put each class's pictures into a folder of its own"
                )
        for extra in sorted(set(val) - set(classes)):
            raise self._corrupt(f"{folders['val']}/{extra}", "is a class that train does not have", "add it there or remove it")
        return classes

    def _pictures_of(self, folder: str, classes: list[str], files: list[File]) -> list[Picture]:
        """The pictures of one split; every class folder that is there has some."""
        named = [
            (path.split("/")[1], path) for path, _, _ in files if path.lower().endswith(EXTENSIONS) and path.count("/") > 1
        ]
        named.sort(key=lambda pair: pair[0])  # stable: within a class, scan's order stays
        of_class = {name: [path for _, path in pairs] for name, pairs in groupby(named, key=lambda pair: pair[0])}
        for name in subfolders(self._name, self._root / folder):
            if name not in of_class:
                raise self._corrupt(f"{folder}/{name}", "holds no JPEG, PNG, WebP or BMP picture", "add some or remove it")
        return [Picture(path, label) for label, name in enumerate(classes) for path in of_class.get(name, [])]

    def _shape(self) -> tuple[tuple[int, int, int] | None, int]:
        """The shape that all pictures have, or None, and their channels.

        Reads headers until two sizes and a colour were seen: a few in a tree of photographs, all of them where all are alike.
        """
        sizes, channels = set(), 1
        for path, _ in [*self._pictures["train"], *self._pictures["val"]]:
            try:
                height, width, is_grey = header_at(self._root / path)
            except NotAPicture as error:
                raise self._no_picture(path, str(error)) from error
            except OSError as error:
                raise unreadable(self._name, self._root / path, error) from error
            sizes.add((height, width))
            channels = channels if is_grey else 3
            if len(sizes) > 1 and channels == 3:
                return None, 3
        return (*sizes.pop(), channels) if len(sizes) == 1 else None, channels

    def _corrupt(self, path: str, what: str, remedy: str) -> DatasetCorrupt:
        return DatasetCorrupt(self._name, self._root / path, what, remedy)


class Imagenette(ImageFolder):
    """Imagenette, full size (fast.ai, 2019): 9,469 and 3,925 photographs of differing sizes, in 10 classes of ImageNet.

    Args:
        data_dir: the folder that holds ``imagenette2/`` or ``imagenette2.tgz``.
        allow_unverified: read a tree that can't be shown to be the published one, too.

    Raises:
        DatasetMissing, DatasetCorrupt: as ``ImageFolder``.
        DatasetUnverified: not unpacked by Loadstone from the published archive, or changed; unless ``allow_unverified``.
        RoomError: the archive can't be unpacked for want of room or permission.
    """

    name: ClassVar[str] = "imagenette"
    published: ClassVar[Mapping[str, int]] = {"train": 9_469, "val": 3_925}
    # As in torchvision's Imagenette; a test compares them.
    archive: ClassVar[Archive] = Archive(
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz", "fe2fc210e6bb7c5664d602c3cd71e612", "imagenette2"
    )

    def __init__(self, data_dir: Path, *, allow_unverified: bool = False) -> None:
        find(self.name, self.archives(), data_dir, allow_unverified=allow_unverified)
        root = data_dir / self.archive.folder
        super().__init__(root, self.name)
        why = doubt(root, scan(self.name, root), self.archive)
        name, verification = judge(self.name, root, why, self.info.counts, self.published, allow_unverified=allow_unverified)
        self.info = replace(
            self.info,
            name=name,
            verification=verification,
            licence="ImageNet's terms: research and teaching only",
            homepage="https://github.com/fastai/imagenette",
        )

    @classmethod
    def archives(cls) -> tuple[Archive, ...]:
        """What can be downloaded."""
        return (cls.archive,)
