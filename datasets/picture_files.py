"""What the sources share that have a file for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.errors import DatasetCorrupt
from datasets.picture import NotAPicture, header_of
from datasets.source import Example, Source, check_split
from datasets.tree import read_bytes


class Picture(NamedTuple):
    """A picture's path, relative to the tree's root, and its label."""

    path: str
    label: int


class PictureFiles(Source):
    """Yields the files' own bytes, in the order of ``pictures``; each header is checked on the way.

    Args:
        name: the data set's, for messages.
        root: the tree.
        pictures: of each split.
    """

    def __init__(self, name: str, root: Path, pictures: Mapping[str, Sequence[Picture]]) -> None:
        self._name, self._root, self._pictures = name, root, pictures

    def examples(self, split: str) -> Iterator[Example]:
        check_split(split)
        for path, label in self._pictures[split]:
            data = read_bytes(self._name, self._root / path)
            try:
                height, width, _ = header_of(data)
            except NotAPicture as error:
                raise self._no_picture(path, str(error)) from error
            if self.info.shape and (height, width) != self.info.shape[:2]:
                wanted = f"{self.info.shape[0]} x {self.info.shape[1]}"
                raise self._no_picture(path, f"is of {height} x {width} pixels, not {wanted}")
            yield Example(data, label)

    def where(self, split: str, index: int) -> str:
        return str(self._root / self._pictures[split][index].path)

    def _no_picture(self, path: str, what: str) -> DatasetCorrupt:
        return DatasetCorrupt(self._name, self._root / path, what, "replace or remove it")
