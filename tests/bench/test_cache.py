"""Pages are dropped, and what stayed is seen."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import machine
from bench.experiment import Cell
from bench.running import cache
from bench.running.cache import COLD_SHARE, Dropped
from bench.running.dropping import drop_store
from bench.running.prepare import Ready
from datasets.errors import StoreCorrupt

SIZE = 4 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of two files and an empty one, all in memory, as they were just written."""
    (tmp_path / "train").mkdir()
    for name in ("train/a.bin", "b.bin"):
        (tmp_path / name).write_bytes(os.urandom(SIZE))
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def on_a_disk(root: Path) -> None:
    """Skip where files live in memory."""
    if (kind := machine.filesystem(root)) in ("tmpfs", "ramfs"):
        pytest.skip(f"the temporary folder is on {kind}, which keeps its files in memory")


def test_what_was_written_is_resident_until_it_is_dropped(root: Path) -> None:
    """The kernel is asked, not trusted: all pages are there, then none, then those that were read."""
    on_a_disk(root)
    assert cache.resident(files(root)) == 1.0
    found = cache.drop(root)
    assert found.resident is not None
    assert found.resident <= COLD_SHARE
    assert found.reason == ""
    (root / "b.bin").read_bytes()
    assert cache.resident(files(root)) == pytest.approx(0.5, abs=0.01)


def test_pages_that_are_mapped_stay_and_are_seen(root: Path) -> None:
    """A process that maps a file keeps it warm, and the run does not call itself cold."""
    on_a_disk(root)
    with (root / "b.bin").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = np.frombuffer(mapped, np.uint8)
        assert pages[:: mmap.PAGESIZE].sum() >= 0
        found = cache.drop(root)
        del pages
    assert found.resident == pytest.approx(0.5, abs=0.01)
    assert found.reason == "50% of its pages stayed in memory, as where another process maps them"


def test_a_file_system_in_memory_is_never_cold(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and nothing is dropped."""
    monkeypatch.setattr(machine, "filesystem", lambda _: "tmpfs")
    assert cache.drop(root) == Dropped(None, "tmpfs keeps its files in memory")


def test_a_file_that_cannot_be_opened_is_said(root: Path) -> None:
    """One line names it."""
    on_a_disk(root)
    (root / "gone").symlink_to(root / "nowhere")
    with pytest.raises(StoreCorrupt, match=r"gone can't be dropped from memory \(No such file"):
        cache.drop(root)


class Server:
    """Notes what is asked of it."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder, self.shared, self.pid = folder, shared, 7
        self.asked: list[str] = []

    def stop(self) -> None:
        self.asked.append("stop")

    def start(self) -> None:
        self.asked.append("start")
        self.pid += 1


def stored(root: Path, **fields: Any) -> Ready:
    cell = Cell(dataset="cifar10", backend="postgres", mode="load", protocol="quick", cache="cold")
    held: Any = fields.get("database")
    manifest: Any = None
    return Ready(cell, root, fields.get("server"), manifest, held)


def test_a_server_of_ours_is_stopped_while_its_files_are_dropped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order; the run is told which process serves it from then on."""
    server = Server(root)

    def drop(folder: Path) -> Dropped:
        server.asked.append(f"drop {folder.name}")
        return Dropped(0.0)

    monkeypatch.setattr(cache, "drop", drop)
    assert drop_store(stored(root, database=server)) == Dropped(0.0, "", 8)
    assert server.asked == ["stop", "drop data", "start"]


def test_a_server_that_is_not_ours_is_left_running(root: Path) -> None:
    """The user's own, and one that another process runs: the run says why it is not cold."""
    shared = Server(root, shared=True)
    assert drop_store(stored(root, server="host=far")).reason == "the database server is not ours to stop"
    assert drop_store(stored(root, database=shared)) == Dropped(None, "another process runs the database server", 7)
    assert shared.asked == []
