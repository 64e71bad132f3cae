"""Peers with random access: what the contract suite does not ask of them: damage, and the way of reading that was chosen."""

from __future__ import annotations

import contextlib
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from datasets.errors import DataError, PathRefused, SampleCorrupt, StoreCorrupt
from loaders.order import Draws
from loaders.pack import open_store, pack
from loaders.registry import availability
from loaders.store import Store
from tests.loaders.sources import Expected, expected

RAW, JPEG = expected("raw"), expected("jpeg")


def packed(name: str, root: Path, wanted: Expected = RAW) -> Store:
    """A store of a peer; the test is skipped where the peer is not installed."""
    here = availability(name)
    if not here.ok:
        pytest.skip(here.reason)
    return pack(wanted.source, name, root)


@pytest.mark.parametrize("wanted", [RAW, JPEG], ids=lambda wanted: wanted.codec)
@pytest.mark.parametrize("name", ["lmdb", "parquet", "zarr"])
def test_a_store_cut_short_is_said(name: str, wanted: Expected, tmp_path: Path) -> None:
    """Whatever file is cut, the error is one of a damaged store, and names it."""
    store = packed(name, tmp_path, wanted)
    for file in sorted(store.root.rglob("*")):
        if file.is_file() and file.name != "manifest.json" and not file.name.startswith("val."):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    reader = store.reader("train")
    with pytest.raises(DataError, match=name):
        reader.payloads(np.arange(23))


def test_readers_open_and_close_beside_each_other(tmp_path: Path) -> None:
    """LMDB refuses a file that another thread is just opening or closing: no reader ever meets that; the last one closes."""
    store = packed("lmdb", tmp_path)
    from loaders.peers.lmdb import _Shared

    def work(which: int) -> None:
        for number in range(300):
            reader = store.reader("train")
            reader.payloads(np.array([which]))
            if number % 2:
                reader.close()  # else it is dropped

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)
    file = (store.root / "train.lmdb").stat()
    assert (file.st_dev, file.st_ino) not in _Shared.opened


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    """LMDB answers for the keys that it has; the sample that it lacks is in the error."""
    store = packed("lmdb", tmp_path)
    import lmdb

    with (
        lmdb.open(str(store.root / "train.lmdb"), subdir=False, lock=False) as environment,
        environment.begin(write=True) as change,
    ):
        change.delete((7).to_bytes(8, "big"))
    reader = store.reader("train")
    with pytest.raises(SampleCorrupt, match="sample 7 of train"):
        reader.payloads(np.array([3, 7, 9]))
    assert bytes(reader.payloads(np.array([9]))[0]) == RAW.payloads["train"][9]
    reader.close()


def test_parquet_s_table_gives_way_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls back to row groups and says so; asked for by name, it refuses."""
    store = packed("parquet", tmp_path)
    assert "table" in store.reader("train").path_taken

    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=100))
    assert "groups" in store.reader("train").path_taken
    with pytest.raises(PathRefused, match="free memory"):
        open_store(store.root, path="table").reader("train")


def test_parquet_without_its_file_is_a_damaged_store(tmp_path: Path) -> None:
    """Choosing a way of reading looks at the file; one that is gone is no crash."""
    store = packed("parquet", tmp_path)
    (store.root / "train.parquet").unlink()
    with pytest.raises(StoreCorrupt, match=r"train\.parquet"):
        store.reader("train").payloads(np.array([0]))


def test_a_record_of_another_length_is_named(tmp_path: Path) -> None:
    """In a batch that is joined: its index stands in the error, and the pictures beside it can still be read."""
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
    store = packed("lmdb", tmp_path)
    with (
        lmdb.open(str(store.root / "train.lmdb"), 1 << 30, subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put((7).to_bytes(8, "big"), RAW.payloads["train"][7][:-1])
    with contextlib.closing(store.reader("train")) as reader:
        out = np.empty((3, *RAW.shape), np.uint8)
        with pytest.raises(SampleCorrupt) as found:
            reader.read(np.array([3, 7, 9]), out, Draws(0, 0, training=False))
        assert found.value.index == 7
        reader.read(np.array([3, 9, 3]), out, Draws(0, 0, training=False))
        assert [picture.tobytes() for picture in out] == [RAW.payloads["train"][index] for index in (3, 9, 3)]
