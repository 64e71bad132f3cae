"""Small seeded data sets for tests, and what a store has to hand over of them, made without Loadstone's own code."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from datasets.source import Example, Source, SourceInfo
from loaders import sizing
from loaders.codec import Pixels
from loaders.manifest import CodecName
from loaders.order import Draws

CLASSES = ("ant", "bee", "cat")
COUNTS = {"train": 23, "val": 9}
SIDE = 20
"""Height and width that pictures of differing sizes are delivered in."""


class ListSource(Source):
    """Examples out of lists; what it says of itself may be made untrue, to see what packing makes of that."""

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        *,
        shape: tuple[int, int, int] | None,
        name: str = "shapes",
        channels: int = 3,
        codec: Literal["raw", "jpeg"] = "raw",
        counts: Mapping[str, int] | None = None,
        fingerprint: str = "",
    ) -> None:
        self.lists = examples
        self.info = SourceInfo(
            name=name,
            classes=CLASSES,
            counts=counts or {split: len(held) for split, held in examples.items()},
            shape=shape,
            channels=channels,
            codec=codec,
            verification="synthetic",
            fingerprint=fingerprint or hashlib.sha256(repr(shape).encode()).hexdigest(),
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )

    def examples(self, split: str) -> Iterator[Example]:
        yield from self.lists[split]


def picture(rng: np.random.Generator, height: int, width: int, channels: int) -> Pixels:
    """Smooth noise (JPEG keeps it roughly); in colour red is bright, green middling and blue dark."""
    coarse = rng.integers(0, 60, (height // 4 + 1, width // 4 + 1, channels), np.uint8)
    fine = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    levels = np.array([190, 95, 5] if channels == 3 else [90], np.uint8)
    return np.ascontiguousarray(fine + levels)


def encoded(pixels: Pixels, form: str, **options: object) -> bytes:
    """A picture file's bytes, by Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(file, form, **options)
    return file.getvalue()


def decoded(data: bytes, channels: int) -> Pixels:
    """A picture file's pixels, by Pillow."""
    with Image.open(io.BytesIO(data)) as file:
        pixels = np.asarray(file.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


@dataclass(frozen=True)
class Expected:
    """What a store has to hand over.

    Attributes:
        source, codec: what it was packed from, and how pictures are held.
        payloads, pictures, labels: of each split, in order.
    """

    source: ListSource
    codec: CodecName
    payloads: Mapping[str, Sequence[bytes]]
    pictures: Mapping[str, Sequence[Pixels]]
    labels: Mapping[str, Sequence[int]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every picture in a batch."""
        return self.source.info.shape or (SIDE, SIDE, self.source.info.channels)

    def batch(self, split: str, indices: Sequence[int], draws: Draws) -> Pixels:
        """The pictures at ``indices`` as a batch: uint8 (B, H, W, C)."""
        return np.stack([self._fitted(split, int(index), draws) for index in indices])

    def _fitted(self, split: str, index: int, draws: Draws) -> Pixels:
        whole = self.pictures[split][index]
        if self.source.info.shape is not None:
            return whole
        height, width = whole.shape[:2]
        crop = sizing.box(height, width, index, draws) if draws.training else sizing.centre(height, width, (SIDE, SIDE))
        top, left, h, w = crop
        image = Image.fromarray(whole if whole.shape[2] == 3 else whole[:, :, 0]).crop((left, top, left + w, top + h))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).reshape(self.shape)

    def content_sha256(self, split: str) -> str:
        """SHA-256 over label (int64), payload length (uint64) and payload of every sample in order, little-endian."""
        sha = hashlib.sha256()
        for label, payload in zip(self.labels[split], self.payloads[split], strict=True):
            sha.update(struct.pack("<q", label) + struct.pack("<Q", len(payload)) + payload)
        return sha.hexdigest()


def expected(
    codec: CodecName,
    *,
    differing: bool = False,
    channels: int = 3,
    name: str = "shapes",
    size: tuple[int, int] = (12, 10),
    counts: Mapping[str, int] = COUNTS,
) -> Expected:
    """A data set (JPEG files for ``jpeg``, else pixels) and what a store has to hand over of it."""
    rng = np.random.default_rng(2024)
    payloads: dict[str, list[bytes]] = {}
    pictures: dict[str, list[Pixels]] = {}
    labels: dict[str, list[int]] = {}
    examples: dict[str, list[Example]] = {}
    for split, count in counts.items():
        sizes = [(size[0] + 7 * (row % 5), size[1] + 9 * (row % 4)) if differing else size for row in range(count)]
        drawn = [picture(rng, height, width, channels) for height, width in sizes]
        labels[split] = [(row * row + row // 2) % len(CLASSES) for row in range(count)]
        if codec == "jpeg":
            payloads[split] = [encoded(pixels, "JPEG", quality=90) for pixels in drawn]
            pictures[split] = [decoded(data, channels) for data in payloads[split]]
            held: list[Example] = [Example(data, label) for data, label in zip(payloads[split], labels[split], strict=True)]
        else:
            payloads[split] = [pixels.tobytes() if codec == "raw" else encoded(pixels, "PNG") for pixels in drawn]
            pictures[split] = drawn
            held = [Example(pixels, label) for pixels, label in zip(drawn, labels[split], strict=True)]
        examples[split] = held
    shape = None if differing else (*size, channels)
    source = ListSource(examples, shape=shape, name=name, channels=channels, codec="jpeg" if codec == "jpeg" else "raw")
    return Expected(source, codec, payloads, pictures, labels)
