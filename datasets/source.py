"""The contract of a source: published data, as examples in a fixed order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.errors import UnknownName

SPLITS = ("train", "val")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Verification = Literal["checksum", "part", "unverified", "synthetic", "own"]
"""How far the files are known to be the publisher's.

``checksum``: the publisher's checksums matched. ``part``: fewer examples than published. ``unverified``: as many, but
not shown to be the same. ``synthetic``: made by Loadstone. ``own``: the user's pictures; nobody published a checksum.
"""


class Example(NamedTuple):
    """One picture as published, and its label.

    Attributes:
        picture: the encoded file's bytes, or decoded pixels as uint8 (height, width, channels), RGB or grey.
        label: class index, in the publisher's order.
    """

    picture: bytes | npt.NDArray[np.uint8]
    label: int


class Block(NamedTuple):
    """Pictures and labels of neighbouring examples; whoever is given them may keep them.

    Attributes:
        pictures: uint8 (n, height, width, channels), C-contiguous, RGB or grey.
        labels: int64 (n,).
    """

    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a data set before any picture is read.

    Attributes:
        name: the word in tables: ``cifar10``, ``cifar10 (part)``, ``cifar10~synthetic``.
        classes: class names; the index is the label.
        counts: examples in each split.
        shape: (height, width, channels) of every picture, or None where sizes differ.
        channels: 3 (RGB) or 1 (every picture is grey).
        codec: the codec nearest to the published form: ``raw`` or ``jpeg``.
        verification: see ``Verification``.
        fingerprint: hex digest that changes when the files change; cheap, not a proof of content.
        mean, std: per-channel normalisation in [0, 1] units, ``channels`` long.
        licence, homepage: of the publisher.
    """

    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    shape: tuple[int, int, int] | None
    channels: int
    codec: Literal["raw", "jpeg"]
    verification: Verification
    fingerprint: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    licence: str = "unknown"
    homepage: str = ""


class Source(ABC):
    """Reads one data set in the form its publisher distributes."""

    info: SourceInfo

    @abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """Yield every example of ``split`` (``train`` or ``val``), in the same order each time.

        Raises:
            DatasetCorrupt: a file is cut short, damaged, or no picture; names the file.
        """

    def blocks(self, split: str) -> Iterator[Block] | None:  # noqa: ARG002
        """The same as ``examples``, many at a time, where the publisher's files hold pixels of one size; else None.

        Raises:
            DatasetCorrupt: as ``examples``.
        """
        return None

    def where(self, split: str, index: int) -> str:
        """Where example ``index`` of ``split`` lies, for a message: a file's path where each picture is a file."""
        return f"example {index} of {split}"


def check_split(split: str) -> None:
    """Refuse a split that no source has.

    Raises:
        UnknownName: ``split`` is neither ``train`` nor ``val``.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
