"""Before the first run: what can't run is found out, and nothing is packed for nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.experiment import Cell, Experiment
from bench.running import prepare
from bench.running.prepare import NotReady, Place, Preparation, Ready, check_names, open_data
from datasets.archive import Archive
from datasets.cifar import Cifar10
from datasets.errors import DatabaseError, DataError, DatasetMissing, UnknownName, UsageError
from loaders.pack import Progress, pack

TINY = "synthetic:train=8,val=4,size=8,classes=2"
JPEG = TINY + ",codec=jpeg"


def cell(**fields: Any) -> Cell:
    return Cell(**({"dataset": TINY, "backend": "mmap", "protocol": "quick", "mode": "load"} | fields))


def experiment(*cells: Cell, **fields: Any) -> Experiment:
    return Experiment(name="tiny", cells=cells, **fields)


@contextlib.contextmanager
def unseen(_what: str, _total: int) -> Iterator[Progress]:
    yield lambda _: None


def preparation(root: Path, *cells: Cell, said: list[str] | None = None, **place: Any) -> Preparation:
    say = (said if said is not None else []).append
    return Preparation(Place(root / "data", root / "stores", **place), experiment(*cells), say, unseen)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends packed for, in order."""
    names: list[str] = []

    def counted(source: Any, backend: str, *args: Any, **options: Any) -> Any:
        names.append(backend)
        return pack(source, backend, *args, **options)

    monkeypatch.setattr(prepare, "pack", counted)
    return names


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher whose server is down; nothing leaves this machine."""
    archive = Archive("http://127.0.0.1:1/cifar-10-binary.tar.gz", "0" * 32, "cifar-10-batches-bin")
    monkeypatch.setattr(Cifar10, "archives", classmethod(lambda _: (archive,)))
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ({"dataset": "cifar11"}, "cifar10"),
        ({"dataset": "synthetic:trian=3"}, "train"),
        ({"backend": "hdf"}, "hdf5"),
        ({"backend": "cpoy", "mode": "limit", "model": None}, "copy"),
        ({"backend": "hdf5:offst"}, "offset"),
        ({"backend": "hdf5_chunked:offset"}, None),
        ({"model": "resnet9"}, "resnet8"),
        ({"protocol": "quik"}, "quick"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(wrong: dict[str, str], nearest: str | None) -> None:
    """Before anything is opened or packed, and also behind a right one."""
    with pytest.raises(UnknownName) as refused:
        check_names(experiment(cell(), cell(**wrong)))
    assert refused.value.nearest == nearest
    assert refused.value.exit_status == 2


@pytest.mark.parametrize(
    "dataset", ["cifar10:mine", "image_folder", "image_folder:", "synthetic:train=many", "synthetic:size=1"]
)
def test_a_wrong_argument_of_a_data_set_is_refused(dataset: str) -> None:
    """An argument that is missing, unwanted or out of bounds is the call's fault."""
    with pytest.raises(UsageError):
        check_names(experiment(cell(dataset=dataset)))


def test_a_data_set_that_is_not_there_is_no_wrong_name() -> None:
    """Its name is right: what is missing is another error."""
    check_names(experiment(cell(dataset="image_folder:nowhere"), cell(dataset="cifar10")))


def test_each_store_is_packed_once(tmp_path: Path, packed: list[str]) -> None:
    """Cells that differ in how they read share a store; two paths of one format do too."""
    cells = [cell(), cell(workers=2), cell(backend="hdf5:h5py"), cell(backend="hdf5"), cell(codec="png"), cell(codec="raw")]
    prepared = preparation(tmp_path, *cells)
    found = [prepared.ready(each) for each in cells]
    assert packed == ["mmap", "hdf5", "mmap"]
    assert all(isinstance(each, Ready) and each.manifest.content.counts == {"train": 8, "val": 4} for each in found)
    assert [each.cell.codec for each in found] == ["raw", "raw", "raw", "raw", "png", "raw"]


def test_compute_takes_no_codec(tmp_path: Path) -> None:
    """It has no way of loading, and its cell stays the one that was asked for."""
    wanted = cell(mode="compute", backend="memory", model="resnet8")
    found = preparation(tmp_path, wanted).ready(wanted)
    assert isinstance(found, Ready)
    assert found.cell == wanted


def test_what_cannot_run_here_is_a_reason(tmp_path: Path, packed: list[str]) -> None:
    """A backend that is unavailable, or does not hold the codec, stops no other; nothing is packed for it."""
    cells = [cell(backend="gpu_mmap"), cell(dataset=JPEG, backend="hdf5_gzip"), cell()]
    prepared = preparation(tmp_path, *cells)
    missing, refused, found = (prepared.ready(each) for each in cells)
    assert isinstance(missing, NotReady)
    assert isinstance(refused, NotReady)
    assert isinstance(found, Ready)
    assert missing.error.reason
    assert refused.error.reason == "it holds raw, not jpeg"
    assert refused.cell.codec == "jpeg"
    assert packed == ["mmap"]


@pytest.mark.parametrize(("kind", "codec", "fits"), [("copy", "raw", True), ("gather", "png", False), ("decode", "raw", False)])
def test_a_limit_that_says_nothing_is_a_reason(tmp_path: Path, packed: list[str], kind: str, codec: str, fits: bool) -> None:
    """Encoded pictures are not copied as they are, and raw ones not decoded; what fits is measured on ``memory``."""
    limit = cell(backend=kind, mode="limit", model=None, codec=codec)
    found = preparation(tmp_path, limit).ready(limit)
    assert isinstance(found, Ready) == fits
    assert [name for name in packed if "memory" in name] == packed
    assert bool(packed) == fits


def test_every_data_set_is_opened_before_the_first_is_packed(tmp_path: Path, packed: list[str]) -> None:
    """One that is missing is said at once, not after minutes of packing another."""
    prepared = preparation(tmp_path, cell(), cell(dataset="image_folder:nowhere"))
    with pytest.raises(DatasetMissing):
        prepared.check()
    assert packed == []


def test_a_database_that_is_down_is_said_before_packing(tmp_path: Path, packed: list[str]) -> None:
    """The line names the server and what helps, and holds no password."""
    prepared = preparation(tmp_path, cell(), cell(backend="postgres"), postgres="postgresql://nobody:secret@127.0.0.1:1/x")
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:1/x: Connection refused") as refused:
        prepared.check()
    assert "secret" not in str(refused.value)
    assert packed == []


def test_a_database_that_no_cell_needs_is_left_alone(tmp_path: Path) -> None:
    """It may be down."""
    preparation(tmp_path, cell(), postgres="postgresql://127.0.0.1:1/x").check()


def test_a_missing_data_set_is_an_error(tmp_path: Path, unreachable: None) -> None:
    """Nothing is downloaded, and nothing stands in, unless the experiment says so."""
    with pytest.raises(DatasetMissing, match="loadstone download cifar10") as refused:
        open_data("cifar10", Place(tmp_path, tmp_path), experiment(cell()), print)
    assert refused.value.exit_status == 4


def test_what_stands_in_is_said_aloud(tmp_path: Path, unreachable: None) -> None:
    """Where neither data nor network is there, its name is never the real one's."""
    said: list[str] = []
    source = open_data("cifar10", Place(tmp_path, tmp_path), experiment(cell(), stand_in=True), said.append)
    assert source.info.name == "cifar10~synthetic"
    assert source.info.shape == (32, 32, 3)
    assert "downloading" in said[0]
    assert "Using cifar10~synthetic instead" in said[1]
    assert "not the real data set" in said[1]


def test_nothing_stands_in_for_ones_own_pictures(tmp_path: Path) -> None:
    """A folder that is not there is a mistake in the call."""
    with pytest.raises(DatasetMissing):
        open_data("image_folder:nowhere", Place(tmp_path, tmp_path), experiment(cell(), stand_in=True), print)


def test_nothing_stands_in_for_a_damaged_data_set(tmp_path: Path) -> None:
    """What is there and can't be trusted is an error, even where a missing one would be stood in for."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(b"cut short")
    place = Place(tmp_path, tmp_path, allow_unverified=True)
    said: list[str] = []
    with pytest.raises(DataError, match="cifar-10-batches-bin"):
        open_data("cifar10", place, experiment(cell(), stand_in=True), said.append)
    assert said == []


def test_a_peer_that_is_not_installed_is_a_row_that_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each optional peer has the one line that installs it; nothing is packed."""
    for name in ("ffcv", "litdata", "lmdb", "pyarrow", "webdataset", "zarr"):
        for module in [found for found in sys.modules if found.partition(".")[0] == name or found.startswith("loaders.peers.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
    stores = [cell(backend=name) for name in ("lmdb", "parquet", "zarr")]
    feeds = [cell(backend=name, engine="native") for name in ("ffcv", "litdata", "webdataset")]
    ready = preparation(tmp_path, *stores, *feeds)
    for peer in (*stores, *feeds):
        found = ready.ready(peer)
        assert isinstance(found, NotReady)
        assert "is not installed" in found.error.reason
        assert f"'loadstone[{peer.backend}]'" in found.error.remedy
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(("backend", "engine"), [("imagefolder", "torch"), ("mmap", "native")])
def test_a_backend_with_an_engine_it_can_t_have_is_a_row(tmp_path: Path, packed: list[str], backend: str, engine: str) -> None:
    """Not a crash: the reason names both, and nothing is packed for it."""
    wanted = cell(backend=backend, engine=engine)
    found = preparation(tmp_path, wanted).ready(wanted)
    assert isinstance(found, NotReady)
    assert f"the engine {engine} can't read it" in found.error.reason
    assert packed == []


def test_a_peer_that_can_t_hold_a_data_set_or_take_a_limit_is_a_row(tmp_path: Path, packed: list[str]) -> None:
    """CIFAR10's class wants pictures of its size; what reads a split whole can't time a part of it."""
    wanted = cell(backend="cifar10_torchvision", engine="native")
    found = preparation(tmp_path, wanted).ready(wanted)
    assert isinstance(found, NotReady)
    assert "32 x 32" in found.error.reason
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    wanted = cell(backend="webdataset", engine="native", limit=4)
    found = preparation(tmp_path, wanted).ready(wanted)
    assert isinstance(found, NotReady)
    assert "whole" in found.error.reason
    assert packed == []
