"""One run: what its record holds, and that equal work is equal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import torch

from bench.experiment import Cell
from bench.record import Epoch
from bench.running import held, limits, worker
from bench.running.worker import Job
from datasets.errors import PathRefused, StoreCorrupt, UnknownName
from datasets.registry import open_source
from loaders import loader, order
from loaders.engine import Batch
from loaders.feed import FeedStore
from loaders.order import Indices
from loaders.pack import open_store, pack
from train.protocol import protocol
from train.transfer import PlacedBatch

Run = Callable[..., dict[str, Any]]

DATA = "synthetic:train=300,val=40,size=16,classes=4"
BACKENDS = ("filesystem", "hdf5", "hdf5:h5py", "hdf5_chunked", "memory", "mmap")
EPOCHS = protocol("quick").epochs


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """A run sets torch's global state for its process; here that process goes on."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One data set in every format."""
    root = tmp_path_factory.mktemp("stores")
    source = open_source(DATA, root)
    return {name: pack(source, name, root).root for name in dict.fromkeys(each.partition(":")[0] for each in BACKENDS)}


@pytest.fixture(scope="module")
def cifar_like(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures of CIFAR-10's size, which all peers take, in our format and in those of peers that are always there."""
    root = tmp_path_factory.mktemp("peers")
    source = open_source("synthetic:train=300,val=40,size=32,classes=4", root)
    return {name: pack(source, name, root).root for name in ("mmap", "imagefolder", "cifar10_torchvision")}


@pytest.fixture
def run(stores: dict[str, Path]) -> Run:
    """Runs a cell in this process; other fields are the cell's."""

    def call(mode: str, backend: str = "mmap", *, seed: int = 3, tell: worker.Tell = lambda *_: None, **fields: Any) -> Any:
        fields = {"model": None if mode in ("load", "limit") else "resnet8", "protocol": "quick"} | fields
        cell = Cell(dataset=DATA, backend=backend, mode=mode, codec="raw", **fields)
        return worker.run(Job(cell, stores[cell.backend_name], None, seed, 1, "cpu"), tell)

    return call


def test_training_says_all_that_a_record_needs(run: Run) -> None:
    """Every epoch's times, a loss a step, scores on the validation pictures, and what the run took."""
    told: list[tuple[int, int, Epoch]] = []
    found = run("train", tell=lambda *news: told.append(news))
    assert [number for number, _, _ in told] == list(range(EPOCHS))
    assert {epochs for _, epochs, _ in told} == {EPOCHS}
    assert tuple(epoch for _, _, epoch in told) == found["epochs"]
    assert all(epoch.images == 300 and epoch.passes == 1 for epoch in found["epochs"])
    assert all(epoch.total == pytest.approx(epoch.wait + epoch.copy_ + epoch.step) for epoch in found["epochs"])
    assert all(0 < epoch.first_batch < epoch.total for epoch in found["epochs"])
    assert len(found["losses"]) == EPOCHS * 3
    assert (found["train_images"], found["val_images"]) == (300, 40)
    assert 0 <= found["macro_f1"] <= 1
    assert found["accuracy"] * 40 == pytest.approx(round(found["accuracy"] * 40))
    assert (found["threads"], found["device"]) == (1, "cpu")
    assert found["path_taken"]
    assert found["cpu_seconds"] > 0
    assert found["pss_bytes"] > 10 * 2**20
    assert found["bytes_read"] >= 0


def test_the_digests_are_those_of_the_order_and_the_pixels(run: Run, tmp_path: Path) -> None:
    """The order is the project's own, of the round's seed; the pixels are the publisher's in that order."""
    indices = order.order(300, 3, 0)
    pixels = np.stack([np.asarray(example.picture) for example in open_source(DATA, tmp_path).examples("train")])
    found = run("load")
    assert found["order_sha256"] == hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    assert found["pixel_sha256"] == hashlib.sha256(pixels[indices].tobytes()).hexdigest()
    other = run("load", seed=4)
    assert other["order_sha256"] != found["order_sha256"]
    assert other["pixel_sha256"] != found["pixel_sha256"]


def test_a_limit_takes_the_same_pictures_in_every_run(run: Run) -> None:
    """The digest is that of the limited order; a picture count of the record is what was delivered."""
    found = run("load", limit=130)
    subset = order.subset(300, 130)
    assert found["order_sha256"] == order.digest(subset[order.order(130, 3, 0)])
    assert found["train_images"] == 130
    assert all(epoch.images == 130 * epoch.passes for epoch in found["epochs"])


def test_equal_work_is_equal_whatever_the_format(run: Run) -> None:
    """Order, pixels, every loss and both scores are the same bit for bit over all formats, fetches and workers."""
    ways: list[dict[str, Any]] = [{"backend": backend} for backend in BACKENDS]
    ways += [{"backend": "mmap", "engine": "threads", "workers": workers} for workers in (0, 2)]
    ways += [{"backend": "mmap", "workers": 2}, {"backend": "hdf5", "fetch": "item"}]
    same = ("order_sha256", "pixel_sha256", "losses", "accuracy", "macro_f1")
    found = {str(way): tuple(result[key] for key in same) for way in ways for result in [run("train", **way)]}
    assert len(set(found.values())) == 1, found


def test_loading_is_repeated_until_it_can_be_timed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over little data takes less than a timer is good for: passes fill the time, and the first stands alone."""
    monkeypatch.setattr(worker, "LOAD_SECONDS", 0.1)
    found = run("load")
    first, *measured = found["epochs"]
    assert first.passes == 1
    assert len(found["epochs"]) == EPOCHS
    assert len({epoch.passes for epoch in measured}) == 1
    assert measured[0].passes > 1
    assert all(epoch.images == 300 * epoch.passes for epoch in measured)
    assert all(0.02 < epoch.total < 5 for epoch in measured)
    assert "losses" not in found


def test_loading_that_is_slow_enough_is_not_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over much data is a timed unit."""
    monkeypatch.setattr(worker, "LOAD_SECONDS", 1e-9)
    assert {epoch.passes for epoch in run("load")["epochs"]} == {1}


def test_after_each_epoch_the_model_trains_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On as many pictures, or no more than a number of steps; what it learns there is forgotten."""
    whole = run("train")
    assert [(epoch.alone_images, epoch.alone > 0) for epoch in whole["epochs"]] == [(300, True)] * EPOCHS
    monkeypatch.setattr(worker, "ALONE_STEPS", 2)
    cut = run("train")
    assert [epoch.alone_images for epoch in cut["epochs"]] == [256] * EPOCHS
    assert cut["losses"] == whole["losses"]
    assert {epoch.alone for epoch in run("load")["epochs"]} == {None}


def test_held_batches_are_copies_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine fills its batches again; of large pictures one batch is held, and the epoch's last."""
    shape = (4, 3, 8, 8)
    batches = [
        Batch(torch.full(shape, n, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), np.arange(4)) for n in range(5)
    ]
    monkeypatch.setattr(held, "BYTES", 1)
    kept = held.Held(lambda batch: PlacedBatch(*batch), 5)
    for batch in kept.keeping(batches):
        batch.images.zero_()
    assert [int(batch.images[0, 0, 0, 0]) for batch in kept.repeated()] == [0, 0, 0, 0, 4]
    assert [int(batch.images[0, 0, 0, 0]) for batch in kept.repeated(3)] == [0, 0, 0]


def test_compute_repeats_batches_and_loads_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pictures and steps as in training, the smaller last batch too; the batches wait in place."""
    monkeypatch.setattr(held, "BATCHES", 2)
    found = run("compute", "memory")
    assert [epoch.images for epoch in found["epochs"]] == [300] * EPOCHS
    assert len(found["losses"]) == EPOCHS * 3
    assert all(epoch.wait < 0.1 * epoch.total for epoch in found["epochs"])


@pytest.mark.parametrize(("limit", "steps"), [(1, 1), (128, 1), (129, 2)])
def test_compute_has_the_steps_of_training(run: Run, limit: int, steps: int) -> None:
    """However few batches there are."""
    found = run("compute", "memory", limit=limit)
    assert [epoch.images for epoch in found["epochs"]] == [limit] * EPOCHS
    assert len(found["losses"]) == EPOCHS * steps


def test_the_path_taken_is_recorded(run: Run) -> None:
    """Two rows of one format say by which code they were read."""
    assert run("load", "hdf5:h5py")["path_taken"] == "h5py"
    assert "offset" in run("load", "hdf5:offset")["path_taken"]
    assert "offset" in run("load", "hdf5")["path_taken"]


def test_a_path_asked_for_by_name_is_not_replaced(run: Run, stores: dict[str, Path], tmp_path: Path) -> None:
    """Where it can't serve the run fails; asked for the format alone, it falls back and says so."""
    file = stores["hdf5"] / "store.h5"
    whole = file.read_bytes()
    try:
        with h5py.File(file, "a") as store:
            for split in ("train", "val"):
                images = store[split]["images"][:]
                del store[split]["images"]
                store[split].create_dataset("images", data=images, chunks=(1, 16, 16, 3))
        with pytest.raises(PathRefused, match="in chunks"):
            run("load", "hdf5:offset")
        assert "h5py" in run("load", "hdf5")["path_taken"]
    finally:
        file.write_bytes(whole)


def test_a_path_that_is_none_is_refused(run: Run) -> None:
    """``hdf5_chunked`` has no contiguous data, and so no path by its offset."""
    with pytest.raises(UnknownName, match="h5py"):
        run("load", "hdf5_chunked:offset")


def test_a_store_cut_short_is_said(run: Run, stores: dict[str, Path]) -> None:
    """The error is the store's, and names it."""
    file = stores["mmap"] / "train.bin"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StoreCorrupt, match="mmap"):
            run("load")
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(("kind", "workers"), [("copy", 1), ("copy", 2), ("gather", 0), ("gather", 2)])
def test_a_limit_does_the_work_of_every_batch(run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, workers: int) -> None:
    """Each thread does its share, together they do every batch of every pass; the record says what was measured."""
    monkeypatch.setattr(worker, "LOAD_SECONDS", 1e-9)
    done: list[list[int]] = []
    make = limits._step

    def watched(*args: Any) -> limits.Step:
        step = make(*args)

        def counted(start: int, indices: Indices) -> None:
            done.append([start, *indices])
            step(start, indices)

        return counted

    monkeypatch.setattr(limits, "_step", watched)
    found = run("limit", kind, workers=workers)
    assert [epoch.images for epoch in found["epochs"]] == [300] * EPOCHS
    assert found["path_taken"] == limits.PATHS[kind]
    indices = order.order(300, 3, 0)
    each = sorted([start, *indices[start : start + 128]] for start in (0, 128, 256))
    assert sorted(done) == sorted(each * (len(done) // 3))
    assert len(done) >= 3 * EPOCHS


def test_limits_read_the_pictures(stores: dict[str, Path]) -> None:
    """What is copied, gathered and decoded are the store's own pictures, in the order asked for."""
    reader = open_store(stores["memory"]).reader("train")
    made: dict[str, np.ndarray[Any, Any]] = {}
    empty = np.empty

    def kept(shape: Any, dtype: Any) -> Any:
        made["buffer"] = empty(shape, dtype)
        return made["buffer"]

    indices = np.array([5, 3, 200, 3])
    wanted = reader.handle.data[indices]
    for kind in ("gather", "decode"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "empty", kept)
            step = limits._step(kind, reader, reader.content.shape or (0, 0, 0), 4)
        step(0, indices)
        assert np.array_equal(made["buffer"].reshape(4, -1), wanted), kind


def fed(root: Path, mode: str, backend: str, engine: str = "native", **fields: Any) -> dict[str, Any]:
    """Run a cell of ``cifar_like``."""
    fields = {"model": None if mode == "load" else "resnet8", "protocol": "quick"} | fields
    cell = Cell.model_validate({"dataset": DATA, "backend": backend, "mode": mode, "codec": "raw", "engine": engine, **fields})
    return worker.run(Job(cell, root, None, 3, 1, "cpu"), lambda *_: None)


def test_augmentation_in_the_pipeline_trains_alike(tmp_path: Path) -> None:
    """``dali:fused`` has the losses and scores of ``dali``, and declares that its pictures come augmented."""
    pytest.importorskip("nvidia.dali", reason="the dali extra is not installed")
    root = pack(open_source(DATA, tmp_path), "dali", tmp_path / "stores").root
    plain, fused = (fed(root, "train", backend, "native") for backend in ("dali", "dali:fused"))
    for key in ("order_sha256", "losses", "accuracy", "macro_f1"):
        assert fused[key] == plain[key]
    assert fused["pixel_sha256"] != plain["pixel_sha256"]
    assert plain["differences"] == {}
    assert "pixels" in fused["differences"]


@pytest.mark.parametrize("backend", ["imagefolder", "cifar10_torchvision"])
def test_a_feed_that_promises_all_trains_alike(backend: str, cifar_like: dict[str, Path]) -> None:
    """Order, pixels, every loss and both scores are those of our own format, bit for bit, and nothing is declared."""
    same = ("order_sha256", "pixel_sha256", "losses", "accuracy", "macro_f1", "val_images")
    ours, theirs = (fed(cifar_like[name], "train", name, engine) for name, engine in (("mmap", "torch"), (backend, "native")))
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}
    assert theirs["differences"] == {}
    assert "order_quality" not in theirs
    assert "DataLoader" in theirs["path_taken"]


def test_a_feed_of_its_own_order_is_judged(tmp_path: Path) -> None:
    """Its digest is of what came; how well it was shuffled stands beside it, and that no picture was missing."""
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    root = pack(open_source(DATA, tmp_path), "webdataset", tmp_path).root
    found = fed(root, "load", "webdataset", workers=2)
    assert found["order_sha256"] != order.digest(order.order(300, 3, 0))
    assert "order" in found["differences"]
    assert found["order_quality"].complete
    assert 0 < found["order_quality"].distance < 1
    assert all(epoch.images == 300 * epoch.passes for epoch in found["epochs"])


def test_an_augmented_load_does_a_training_s_work_on_batches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """``+augmented`` crops, flips and normalises what ``load`` delivers; without it nothing is."""
    seen: list[torch.dtype] = []
    touch = worker._touch
    monkeypatch.setattr(worker, "_touch", lambda images: seen.append(images.dtype) or touch(images))  # type: ignore[func-returns-value]
    run("load", limit=100)
    assert set(seen) == {torch.uint8}
    seen.clear()
    found = run("load", protocol="quick+augmented", limit=100)
    assert set(seen) == {torch.float32}
    assert all(epoch.images == 100 * epoch.passes for epoch in found["epochs"])


class OnGpu:
    """A tensor as CUDA's are: its values can be had by way of the CPU alone."""

    is_cuda = True

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def permute(self, *axes: int) -> OnGpu:
        return OnGpu(self._values.permute(*axes))

    def cpu(self) -> torch.Tensor:
        return self._values

    def numpy(self) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")


def on_gpu(values: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, OnGpu(values))


def test_batches_born_on_a_gpu_have_digests(cifar_like: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed's first epoch is read through wherever its batches are born, and its digests are the same."""
    store = open_store(cifar_like["imagefolder"])
    assert isinstance(store, FeedStore)
    with loader(store, batch_size=64, seed=3) as batches:
        wanted = worker._feed_identity(batches, store)
        there = [batch._replace(images=on_gpu(batch.images), labels=on_gpu(batch.labels)) for batch in batches]
        monkeypatch.setattr(type(batches), "__iter__", lambda _: iter(there))
        assert worker._feed_identity(batches, store) == wanted


def test_a_batch_of_a_gpu_is_not_touched() -> None:
    """The timed stream has waited for it: reading it again would be timed, and prove nothing."""
    assert worker._touch(on_gpu(torch.zeros(5, 3, 2, 2))) == 5


def test_a_gpu_is_warmed_up_before_it_is_timed() -> None:
    """Passes of a millisecond are repeated until its clocks have risen; the epochs that count come after them."""
    asked: list[tuple[int, int]] = []

    def timed(number: int, passes: int) -> Epoch:
        asked.append((number, passes))
        seconds = 0.01 * passes
        return Epoch(total=seconds, wait=0, copy_=0, step=seconds, images=10 * passes, first_batch=0, passes=passes)

    worker._repeated(timed, 3, lambda *_: None, warm_up=worker.GPU_WARM_UP_SECONDS)
    warm = [each for each in asked if each == (0, 1)]
    assert 1 + 30 <= len(warm) <= 1 + 32
    assert asked[len(warm) :] == [(1, 25), (2, 25)]
