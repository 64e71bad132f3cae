"""What a store holds (``Content``, known before packing) and what packing found (``Manifest``, written last)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pydantic

from datasets.errors import StoreCorrupt, StoreIncomplete, StoreMissing, StoreVersion
from datasets.source import SourceInfo, Verification

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PARTIAL = ".partial"

CodecName = Literal["raw", "png", "jpeg"]


class Frozen(pydantic.BaseModel):
    """Checked when made, unchangeable after, no unknown fields."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Content(Frozen):
    """The data set a store holds, and how its pictures are held.

    Attributes:
        dataset: the source's name as tables show it.
        fingerprint, verification: the source's, when it was packed.
        codec: how a picture is held.
        shape: (height, width, channels) of every picture, or None where sizes differ.
        channels: 3 or 1.
        classes: class names by label.
        counts: samples in each split.
        mean, std: normalisation for training, per channel, in [0, 1] units.
    """

    dataset: str
    fingerprint: str
    verification: Verification
    codec: CodecName
    shape: tuple[int, int, int] | None
    channels: int
    classes: tuple[str, ...]
    counts: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, info: SourceInfo, codec: CodecName) -> Content:
        """The content of a source under a codec."""
        return cls(
            dataset=info.name,
            fingerprint=info.fingerprint,
            verification=info.verification,
            codec=codec,
            shape=info.shape,
            channels=info.channels,
            classes=info.classes,
            counts=dict(info.counts),
            mean=info.mean,
            std=info.std,
        )

    @property
    def record_bytes(self) -> int | None:
        """Bytes of every payload, or None where they differ."""
        if self.codec != "raw" or self.shape is None:
            return None
        height, width, channels = self.shape
        return height * width * channels


class SplitManifest(Frozen):
    """One packed split.

    Attributes:
        count: samples.
        payload_bytes: bytes of all payloads.
        content_sha256: SHA-256 over every sample, in order, of label (int64, little-endian), payload length (uint64,
            little-endian) and payload.
    """

    count: int
    payload_bytes: int
    content_sha256: str


class Manifest(Frozen):
    """One finished store.

    Attributes:
        store_bytes: what the store takes on disk or in the database, in bytes.
        pack_seconds: from the first example read to the last byte flushed.
        options: the backend's own (a layout, a table's name, a server).
        versions: of the libraries that wrote it.
    """

    format_version: int = FORMAT_VERSION
    backend: str
    content: Content
    splits: dict[str, SplitManifest]
    store_bytes: int
    pack_seconds: float
    options: dict[str, str] = {}
    versions: dict[str, str] = {}

    def write(self, root: Path) -> None:
        """Write ``root/manifest.json``, whole or not at all."""
        scratch = root / (MANIFEST + PARTIAL)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(root / MANIFEST)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Read the manifest of the store at ``root``.

        Raises:
            StoreMissing: no such folder. StoreIncomplete: it has no manifest. StoreVersion: another format version.
            StoreCorrupt: the manifest can't be read as one.
        """
        if not root.is_dir():
            raise StoreMissing(root)
        try:
            text = (root / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise StoreIncomplete(root) from None
        try:
            fields = json.loads(text)
            version = fields["format_version"]
        except (ValueError, KeyError, TypeError):
            raise StoreCorrupt(root, "its manifest is not readable") from None
        if version != FORMAT_VERSION:
            raise StoreVersion(root, version, FORMAT_VERSION)
        try:
            found = cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise StoreCorrupt(root, f"its manifest has {error.error_count()} wrong fields") from None
        if {split: part.count for split, part in found.splits.items()} != found.content.counts:
            raise StoreCorrupt(root, "its manifest gives two numbers of samples")
        return found
