"""What every published data set needs: finding its files, and saying how far they are known to be the publisher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.archive import Archive, unpack
from datasets.errors import DatasetMissing, DatasetUnverified
from datasets.source import Verification


def find(name: str, archives: Sequence[Archive], data_dir: Path, *, allow_unverified: bool) -> Archive:
    """The first of ``archives`` whose folder stands in ``data_dir``; else the first that is there itself, then unpacked.

    Raises:
        DatasetMissing: neither folder nor archive is there.
        DatasetUnverified, DatasetCorrupt, RoomError: as ``datasets.archive.unpack``.
    """
    for archive in archives:
        if (data_dir / archive.folder).is_dir():
            return archive
    for archive in archives:
        if (data_dir / archive.file).is_file():
            unpack(name, archive, data_dir, allow_unverified=allow_unverified)
            return archive
    choices = " or ".join(f"{archive.folder}/ or {archive.file}" for archive in archives)
    raise DatasetMissing(name, data_dir, f"run `loadstone download {name}`, or put {choices} there")


def is_there(archives: Sequence[Archive], data_dir: Path) -> bool:
    """Whether a folder or an archive of the data set is in ``data_dir``, however whole."""
    return any((data_dir / archive.folder).is_dir() or (data_dir / archive.file).is_file() for archive in archives)


def judge(
    name: str, where: Path, doubt: str, counts: Mapping[str, int], published: Mapping[str, int], *, allow_unverified: bool
) -> tuple[str, Verification]:
    """The name for tables and the verification of files about which there is ``doubt`` (empty: the checksums matched).

    Raises:
        DatasetUnverified: there is doubt, and ``allow_unverified`` is not set.
    """
    if not doubt:
        return name, "checksum"
    if not allow_unverified:
        raise DatasetUnverified(name, where, doubt)
    word: Verification = "part" if any(counts[split] < published[split] for split in published) else "unverified"
    return f"{name} ({word})", word
