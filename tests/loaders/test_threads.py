"""The ``threads`` engine: batches in order, errors in their place, memory used again only when nobody holds it, clean ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.errors import SampleCorrupt, UsageError
from loaders import loader, order
from loaders.backends.mmap import MmapReader
from loaders.codec import Pixels
from loaders.engine import Batch
from loaders.engines.threads import PORTION, READY, ThreadsEngine, threads_by_rule
from loaders.loading import Loader
from loaders.order import Draws, Indices
from loaders.pack import open_store, pack
from loaders.store import Store
from tests.loaders.sources import expected

COUNT = 200
WANTED = expected("raw", name="many", counts={"train": COUNT, "val": 4})
JPEG = expected("jpeg", name="many-jpeg", differing=True)
EVERY_NUMBER = pytest.mark.parametrize("workers", [0, 1, 2, 5])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """200 pictures of 12 x 10 pixels to train on."""
    return pack(WANTED.source, "mmap", tmp_path_factory.mktemp("threads"))


def threads(store: Store, **options: Any) -> Loader:
    """A loader of this engine: 50 batches of 4, by 2 threads, unless something else is asked for."""
    return loader(store, **{"engine": "threads", "batch_size": 4, "workers": 2, **options})


def reading() -> list[threading.Thread]:
    """Threads of the engine that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("loadstone reads")]


class Reads:
    """What a reader was asked for, and how it is made to go wrong or wait."""

    def __init__(self) -> None:
        self.begun: list[Indices] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails_at: int | None = None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Watches every read of ``mmap``."""
    watched = Reads()
    read = MmapReader.read

    def reading(self: MmapReader, indices: Indices, out: Pixels, draws: Draws) -> None:
        watched.begun.append(indices)
        assert watched.may_go_on.wait(20)
        if watched.fails_at in indices:
            raise SampleCorrupt(self.store.root, self.split, watched.fails_at, "made to fail")  # type: ignore[arg-type]
        read(self, indices, out, draws)

    monkeypatch.setattr(MmapReader, "read", reading)
    return watched


def wanted_batches(epoch: int, size: int = 4) -> Iterator[tuple[Indices, Pixels]]:
    """What an epoch has to be: indices and pixels of each batch."""
    indices = order.order(COUNT, 0, epoch)
    for start in range(0, COUNT, size):
        part = indices[start : start + size]
        yield part, WANTED.batch("train", list(part), Draws(0, epoch, training=True))


def assert_is(batch: Batch, wanted: tuple[Indices, Pixels]) -> None:
    assert batch.indices.tolist() == wanted[0].tolist()
    assert batch.labels.tolist() == [WANTED.labels["train"][index] for index in wanted[0]]
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), wanted[1])


@EVERY_NUMBER
def test_batches_come_in_order(store: Store, workers: int) -> None:
    """However many threads read: the order, the pixels and the labels are the project's, epoch after epoch."""
    with threads(store, workers=workers, batch_size=3) as batches:
        for epoch in range(2):
            for batch, wanted in zip(batches, wanted_batches(epoch, 3), strict=True):
                assert_is(batch, wanted)


def test_batches_that_are_kept_stay_whole(store: Store) -> None:
    """A consumer may keep every batch of two epochs: none is overwritten, and no two share memory."""
    with threads(store) as batches:
        kept = [list(batches), list(batches)]
    for epoch, came in enumerate(kept):
        for batch, wanted in zip(came, wanted_batches(epoch), strict=True):
            assert_is(batch, wanted)
    assert len({batch.images.data_ptr() for came in kept for batch in came}) == 100


def part_of(batch: Batch, kind: str) -> Any:
    """What a consumer may keep of a batch."""
    return {"row": batch.images[1], "array": batch.images.numpy()[1], "labels": batch.labels}[kind]


@pytest.mark.parametrize("kind", ["row", "array", "labels"])
def test_a_part_that_is_kept_stays_whole(store: Store, kind: str) -> None:
    """Of a batch that was dropped a tensor's row, a NumPy view or the labels may be kept: they are not overwritten."""
    with threads(store) as batches:
        parts = [part_of(batch, kind) for batch in batches]
    for part, (indices, pixels) in zip(parts, wanted_batches(0), strict=True):
        if kind == "labels":
            assert part.tolist() == [WANTED.labels["train"][index] for index in indices]
        else:
            assert np.array_equal(np.asarray(part).transpose(1, 2, 0), pixels[1])


def test_memory_of_dropped_batches_is_used_again(store: Store) -> None:
    """A consumer that drops each batch sees few places of memory, however long the epoch is."""
    with threads(store) as batches:
        places = {batch.images.data_ptr() for _ in range(3) for batch in batches}
    # Being read or ready, the portion that the consumer works through, and the one whose last batch it lets go of last.
    assert len(places) <= (2 + READY + 2) * PORTION


def test_a_slow_consumer_is_not_run_away_from(store: Store, reads: Reads) -> None:
    """No more portions are read ahead than threads and ``READY`` say, however long the consumer takes."""
    with threads(store) as batches:
        came = iter(batches)
        for taken in range(1, 3 * PORTION):
            next(came)
            # All that may be read ahead is waited for, and what may not is given time to go wrong.
            allowed = -(-taken // PORTION) + 2 + READY
            for _ in range(200):
                if len(reads.begun) >= allowed:
                    break
                threading.Event().wait(0.01)
            threading.Event().wait(0.01)
            assert len(reads.begun) == allowed


@pytest.mark.parametrize(("size", "portion"), [(4, PORTION), (3000, 3), (6000, 1), (20_000, 1)])
def test_large_batches_go_one_by_one(store: Store, size: int, portion: int) -> None:
    """Only small batches are read several at a time: memory stays bounded by bytes, not by a number of batches."""
    with threads(store, batch_size=size) as batches:
        assert isinstance(batches._engine, ThreadsEngine)
        assert batches._engine.portion == portion


@pytest.mark.parametrize("fetch", ["item", "batch"])
@pytest.mark.parametrize("position", [0, 1, 101, COUNT - 1])
def test_an_error_comes_in_its_place(store: Store, reads: Reads, position: int, fetch: str) -> None:
    """The batches before a sample that can't be read are delivered, then its error with its parts; the next epoch goes on."""
    failing = int(order.order(COUNT, 0, 0)[position])
    reads.fails_at = failing
    with threads(store, fetch=fetch) as batches:
        came = iter(batches)
        for _, wanted in zip(range(position // 4), wanted_batches(0), strict=False):
            assert_is(next(came), wanted)
        with pytest.raises(SampleCorrupt) as caught:
            next(came)
        assert (caught.value.index, caught.value.split, caught.value.root) == (failing, "train", store.root)
        with pytest.raises(StopIteration):
            next(came)
        reads.fails_at = None
        for batch, wanted in zip(batches, wanted_batches(1), strict=True):
            assert_is(batch, wanted)


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_other_errors_come_too(store: Store, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    """What is no error of Loadstone's, a bug in a backend or a library that wants to exit, reaches the consumer as it is."""

    def broken(*_: object) -> None:
        raise kind("a bug")

    monkeypatch.setattr(MmapReader, "read", broken)
    with threads(store) as batches, pytest.raises(kind, match="a bug"):
        next(iter(batches))


def failing_step(batch: Batch) -> float:
    return len(batch.images) / 0


@pytest.mark.parametrize("how", ["break", "close", "error", "dropped"])
def test_leaving_early_leaves_nothing(store: Store, reads: Reads, how: str) -> None:
    """However an epoch is left, what was read ahead is dropped, the next epoch begins at its start, and the threads end."""
    with threads(store) as batches:
        came = iter(batches)
        next(came)
        if how == "break":
            for _ in came:
                break
        elif how == "close":
            came.close()  # type: ignore[attr-defined]
        elif how == "error":
            with pytest.raises(ZeroDivisionError):
                list(map(failing_step, came))
        del came
        gc.collect()
        for batch, wanted in zip(batches, wanted_batches(1), strict=True):
            assert_is(batch, wanted)
        assert len(reads.begun) < 2 * -(-50 // PORTION), "the epoch that was left was read to its end"
    assert not reading()


def test_a_loader_that_is_only_dropped_ends_its_threads(store: Store) -> None:
    """Without ``close``, threads end when nothing holds the loader or its batches any more."""
    batches = threads(store)
    came = iter(batches)
    next(came)
    ending = reading()
    assert len(ending) == 2
    del batches, came
    gc.collect()
    for thread in ending:
        thread.join(20)
    assert not any(thread.is_alive() for thread in ending)


def test_closing_in_mid_epoch_ends_it(store: Store) -> None:
    """A loader closed under its consumer's feet raises where the next batch is asked for, and does not hang."""
    batches = threads(store)
    came = iter(batches)
    next(came)
    batches.close()
    assert not reading()
    with pytest.raises(UsageError, match="closed in the middle"):
        list(came)


def test_the_interpreter_ends_in_mid_epoch(store: Store) -> None:
    """A program that ends with an epoch half read ends at once, without a word on the error stream."""
    code = (
        "import sys; from loaders import loader\n"
        f"batches = loader({str(store.root)!r}, engine='threads', workers=2, batch_size=4)\n"
        "came = iter(batches); print(len(next(came).images)); kept = next(came)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_the_interpreter_waits_for_what_is_being_read(store: Store) -> None:
    """A program that ends while threads read ends after what they read now, and nothing further is begun."""
    code = (
        "import time; from loaders import loader; from loaders.backends.mmap import MmapReader\n"
        "def slow(*_): print('begun'); time.sleep(0.5); print('done')\n"
        "MmapReader.read = slow\n"
        f"batches = loader({str(store.root)!r}, engine='threads', workers=1, batch_size=4)\n"
        "came = iter(batches); print(len(next(came).images))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    # Words, not lines: the thread and the program write at once.
    assert done.stdout.count("begun") == done.stdout.count("done") <= 2


def test_a_forked_child_reads_with_threads_of_its_own(store: Store) -> None:
    """After a fork in mid-epoch both processes read on; a child has none of its parent's threads."""
    with threads(store) as batches:
        came = iter(batches)
        next(came)
        child = os.fork()
        if child == 0:
            batches.set_epoch(0)
            same = all(
                np.array_equal(batch.indices, wanted[0]) for batch, wanted in zip(batches, wanted_batches(0), strict=True)
            )
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(list(came)) == 49


def test_two_epochs_at_once_share_the_threads(store: Store) -> None:
    """Two iterators over one loader are two epochs, each in its own order."""
    with threads(store) as batches:
        for first, second, one, two in zip(batches, batches, wanted_batches(0), wanted_batches(1), strict=True):
            assert_is(first, one)
            assert_is(second, two)
        assert len(reading()) == 2


@pytest.mark.parametrize(("engine", "workers"), [("torch", 0), ("torch", 2), ("threads", 1), ("threads", 2)])
@pytest.mark.parametrize("batch", [0, 1, 27, 49])
def test_an_epoch_goes_on_where_it_was_left(store: Store, engine: str, workers: int, batch: int) -> None:
    """``state_dict`` is three integers; another loader goes on from there with the very batches that would have come."""
    with threads(store, engine=engine, workers=workers) as batches:
        batches.set_epoch(3)
        came = iter(batches)
        for _ in range(batch):
            next(came)
        state = batches.state_dict()
    assert state == {"seed": 0, "epoch": 3, "batch": batch}
    with threads(store, engine=engine, workers=workers) as batches:
        batches.load_state_dict(state)
        assert batches.state_dict() == state
        batches.set_epoch(3)  # as a training loop over epochs does
        for came_now, wanted in zip(batches, list(wanted_batches(3))[batch:], strict=True):
            assert_is(came_now, wanted)
        assert batches.state_dict() == {"seed": 0, "epoch": 4, "batch": 0}
        for came_now, wanted in zip(batches, wanted_batches(4), strict=True):
            assert_is(came_now, wanted)


def test_a_state_counts_what_was_delivered(store: Store) -> None:
    """Batches that were read ahead are not in it; once the last is delivered it is the next epoch's start."""
    with threads(store, batch_size=64) as batches:
        states = [batches.state_dict()["batch"] for _ in batches]
        assert states == [1, 2, 3, 0]
        assert batches.state_dict() == {"seed": 0, "epoch": 1, "batch": 0}
        batches.load_state_dict({"seed": 0, "epoch": 5, "batch": 2})
        batches.set_epoch(6)
        assert batches.state_dict() == {"seed": 0, "epoch": 6, "batch": 0}


@pytest.mark.parametrize(
    ("state", "what"), [({"seed": 1, "epoch": 0, "batch": 0}, "seed"), ({"seed": 0, "epoch": 0, "batch": 50}, "batch")]
)
def test_a_state_of_another_loader_is_refused(store: Store, state: dict[str, int], what: str) -> None:
    """A state of another seed, or of a batch that no epoch has, would go on somewhere else without a word."""
    with threads(store) as batches, pytest.raises(UsageError, match=what):
        batches.load_state_dict(state)


def test_nothing_open_is_left(tmp_path: Path) -> None:
    """Twenty loaders, used in part and closed, leave no file open and nothing mapped."""
    store = pack(JPEG.source, "filesystem", tmp_path / "files"), pack(JPEG.source, "mmap", tmp_path / "mapped")

    def use_in_part(one: Store) -> None:
        with threads(one, image_size=20) as batches:
            next(iter(batches))

    def use() -> tuple[int, int]:
        for one in store:
            use_in_part(one)
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count(str(tmp_path))
        return len(os.listdir("/proc/self/fd")), maps  # noqa: PTH208 - the folder is open while it is listed, each time alike

    first = use()
    for _ in range(10):
        assert use() == first
    assert first[1] == 0


def test_memory_is_not_read_once_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of ``memory`` share the one copy of the split, and those of ``mmap`` the one mapping."""
    for name in ("memory", "mmap"):
        store = pack(WANTED.source, name, tmp_path)
        reader = store.reader("train")
        twin = reader.twin()
        assert twin is not reader
        assert twin.handle is reader.handle
        reader.close()
        assert len(twin.payloads(np.array([0]))) == 1


def test_handles_that_serve_one_thread_are_not_shared(tmp_path: Path) -> None:
    """Readers whose handle is a place in a file, or a connection, get one a thread."""
    store = open_store(pack(WANTED.source, "hdf5", tmp_path).root, path="h5py")
    reader = store.reader("train")
    twin = reader.twin()
    assert twin.handle is not reader.handle
    reader.close()
    assert len(twin.payloads(np.array([0]))) == 1
    twin.close()


@pytest.mark.parametrize(("cores", "copying", "decoding"), [(1, 1, 1), (2, 2, 2), (8, 2, 8), (96, 2, 16)])
def test_the_number_of_threads_is_by_rule(cores: int, copying: int, decoding: int) -> None:
    """Two threads copy; pictures that are decoded, resized or decompressed get a thread a core, up to sixteen."""
    assert threads_by_rule(True, cores) == copying
    assert threads_by_rule(False, cores) == decoding


@pytest.mark.parametrize(
    ("wanted", "backend", "copies"),
    [
        (WANTED, "mmap", True),
        (WANTED, "hdf5_chunked", True),
        (WANTED, "hdf5_gzip", False),
        (JPEG, "mmap", False),
        (expected("raw", differing=True), "mmap", False),
    ],
)
def test_what_only_copies_is_known(wanted: Any, backend: str, copies: bool, tmp_path: Path) -> None:
    """Raw pictures of one size are copied, where nothing is compressed; all else is work for every core."""
    assert pack(wanted.source, backend, tmp_path).reader("train").copies == copies


def test_no_number_of_threads_is_the_rule(store: Store) -> None:
    """``workers=0`` starts as many threads as the rule says; a number under 0 is a mistake of the call."""
    with threads(store, workers=0) as batches:
        list(batches)
        assert len(reading()) <= threads_by_rule(True, len(os.sched_getaffinity(0)))
    with pytest.raises(UsageError, match="workers"):
        threads(store, workers=-1)


def test_pinning_where_there_is_no_gpu_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pin_memory`` without a GPU warns, as PyTorch's loader does, and delivers the same."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.warns(UserWarning, match="there is no GPU"):
        batches = threads(store, pin_memory=True)
    with batches:
        assert_is(next(iter(batches)), next(wanted_batches(0)))


@pytest.mark.parametrize("engine", ["torch", "threads"])
def test_labels_come_with_their_batch(store: Store, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine asks for the labels of a whole split: in a database of millions they are not at hand."""
    labels = store.reader("train").labels
    monkeypatch.setattr(MmapReader, "labels", property(lambda _: pytest.fail("all labels were asked for")))
    monkeypatch.setattr(MmapReader, "labels_at", lambda _, indices: np.asarray(labels[indices]))
    with loader(store, engine=engine, batch_size=64) as batches:
        assert all(batch.labels.tolist() == labels[batch.indices].tolist() for batch in batches)
