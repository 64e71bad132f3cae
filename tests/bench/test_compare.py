"""Two runs, cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.record import Record
from bench.reporting.compare import Folder, compare, differences

MakeRecord = Callable[..., Record]
ENVIRONMENT = {
    "machine": "A, 2 cores",
    "store_filesystem": "ext4",
    "versions": {"torch": "2.14.1", "loadstone": "0.1.0"},
    "protocols": {"quick": "abc"},
}


def rounds(make: MakeRecord, backend: str, means: list[float], **fields: Any) -> list[Record]:
    return [make(backend, (9.0, mean), wait=0.0, round=number, **fields) for number, mean in enumerate(means)]


@pytest.fixture
def pair(tmp_path: Path, make: MakeRecord, folder_of: Callable[..., Path]) -> Callable[..., tuple[Path, Path]]:
    """Two folders; in the second mmap takes twice as long, hdf5 as long. Its records and environment may be others."""

    def write(environment: dict[str, Any] | None = None, **fields: Any) -> tuple[Path, Path]:
        one = rounds(make, "mmap", [1.00, 1.01, 1.02]) + rounds(make, "hdf5", [1.0, 1.02, 1.01]) + rounds(make, "lmdb", [1, 1])
        other = rounds(make, "mmap", [2.00, 2.03, 2.02], **fields) + rounds(make, "hdf5", [1.01, 1.02, 1.0], **fields)
        a = folder_of(tmp_path / "a", one, ENVIRONMENT)
        return a, folder_of(tmp_path / "b", other, ENVIRONMENT | (environment or {}))

    return write


def test_common_cells_have_a_ratio_with_its_interval(pair: Callable[..., tuple[Path, Path]]) -> None:
    """One takes twice as long, and hdf5 can't be told apart; lmdb is in one only."""
    a, b = map(Folder.read, pair())
    hdf5, mmap = sorted(compare(a, b), key=lambda one: one.cell.backend)
    assert mmap.ratio.mean == pytest.approx(2.0, abs=0.01)
    assert mmap.ratio.low is not None
    assert mmap.ratio.low > 1.9
    assert (mmap.different, hdf5.different) == (True, False)
    assert differences(a, b) == []


@pytest.mark.parametrize(
    ("environment", "fields", "says"),
    [
        ({"machine": "B, 64 cores"}, {}, "machine (A, 2 cores, B, 64 cores)"),
        ({"versions": {"torch": "2.13.0", "loadstone": "0.1.0"}}, {}, "torch (2.14.1, 2.13.0)"),
        ({"protocols": {"quick": "other"}}, {}, "the protocol quick"),
        ({}, {"content_sha256": "other pictures"}, "the data of cifar10 "),
        ({}, {"threads": 8}, "threads of cifar10 "),
        ({}, {"device": "cuda"}, "device of cifar10 "),
        ({}, {"train_images": 100}, "images of cifar10 "),
        ({}, {"order_sha256": "another seed"}, "the order in which cifar10 "),
        ({}, {"path_taken": "copied"}, "the code path that served cifar10 "),
    ],
)
def test_what_differs_is_refused_and_named(
    environment: dict[str, Any], fields: dict[str, Any], says: str, pair: Callable[..., tuple[Path, Path]], loadstone: Any
) -> None:
    """Status 2, in one line; --anyway compares, and says it too."""
    a, b = pair(environment, **fields)
    refused = loadstone("compare", a, b)
    assert refused.status == 2
    assert says in refused.err
    assert "add --anyway" in refused.err
    done = loadstone("compare", a, b, "--anyway")
    assert done.status == 0
    assert says in done.out


def test_the_command_shows_every_cell(pair: Callable[..., tuple[Path, Path]], loadstone: Any) -> None:
    """A line a cell, and those that are in one only."""
    found = loadstone("compare", *pair())
    assert found.status == 0
    assert "2.0" in next(line for line in found.out.splitlines() if line.startswith("cifar10 mmap"))
    assert next(line for line in found.out.splitlines() if line.startswith("cifar10 hdf5")).endswith(" =")
    assert "In A only: cifar10 lmdb resnet8 train, quick, 512 images" in found.out


def test_runs_without_a_common_cell_are_refused(
    tmp_path: Path, make: MakeRecord, folder_of: Callable[..., Path], loadstone: Any
) -> None:
    """Another limit is another cell; a folder without a run is status 4."""
    a = folder_of(tmp_path / "a", [make("mmap")])
    b = folder_of(tmp_path / "b", [make("mmap", limit=256)])
    assert "no cell in common" in loadstone("compare", a, b).err
    assert loadstone("compare", a, tmp_path / "c").status == 4


def test_one_run_has_no_interval_and_decides_nothing(tmp_path: Path, make: MakeRecord, folder_of: Callable[..., Path]) -> None:
    """A ratio alone."""
    a, b = (folder_of(tmp_path / name, [make("mmap", (9.0, seconds))]) for name, seconds in (("a", 1.0), ("b", 2.0)))
    (found,) = compare(Folder.read(a), Folder.read(b))
    assert found.ratio.mean == pytest.approx(2.0)
    assert (found.ratio.low, found.different) == (None, None)
