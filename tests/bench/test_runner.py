"""The runner: every run in a process of its own, and none left behind."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import record
from bench.experiment import Cell, Experiment
from bench.record import Epoch, Record
from bench.running import runner
from bench.running.cache import Drop, Dropped
from bench.running.prepare import NotReady, Ready
from bench.running.progress import Watch
from bench.running.runner import Runner, Turn, fork_server, one, turns
from bench.running.worker import Job
from datasets.errors import DatabaseError, RoomError, Unavailable
from datasets.registry import open_source
from loaders.manifest import Manifest
from loaders.pack import pack

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
DATA = "synthetic:train=64,val=16,size=16,classes=4"

Tell = Callable[[int, int, Epoch], None]
MakeJob = Callable[..., Job]


def silent(*_: object) -> None:
    """Told of epochs; does nothing."""


@pytest.fixture(scope="module")
def context() -> Iterator[ForkServerContext]:
    """The fork server, started; meanwhile orphans of runs become children of this process, where they can be seen."""
    found = fork_server()
    ensure_running()
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield found
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def tell_what_is_loaded(where: Connection) -> None:
    """Tells how many objects no collection walks any more, and which modules are there."""
    where.send((gc.get_freeze_count(), set(sys.modules)))


def test_runs_start_with_everything_loaded_and_nothing_to_collect(context: ForkServerContext) -> None:
    """No epoch pays for imports, nor for a collection that walks, and by that copies, what the fork server loaded."""
    mine, theirs = context.Pipe()
    process = context.Process(target=tell_what_is_loaded, args=(theirs,))
    process.start()
    frozen, loaded = mine.recv()
    process.join()
    assert frozen > 100_000
    assert {"torch", "loaders.kernels.jpeg", "loaders.kernels.files", "loaders.kernels.chunks"} <= loaded


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores")
    return pack(open_source(DATA, root), "mmap", root).root


@pytest.fixture
def job(store: Path) -> MakeJob:
    """A run that ends at once; with ``endless=True``, one of hundreds of epochs that reads in two more processes."""

    def make(root: Path = store, *, endless: bool = False, device: str = "cpu") -> Job:
        fields: dict[str, Any] = {"mode": "load", "protocol": "quick"}
        if endless:
            fields = {"mode": "train", "model": "resnet8", "protocol": "huang2017", "workers": 2}
        return Job(Cell(dataset=DATA, backend="mmap", codec="raw", **fields), root, None, 0, 1, device)

    return make


@pytest.fixture(autouse=True)
def nothing_is_left(context: ForkServerContext) -> Iterator[None]:
    """Whatever a test did to its runs, no process of theirs outlives it."""
    before = processes()
    yield
    deadline = time.monotonic() + 2  # before PyTorch's own watch over its workers, every 5 s, can have ended any
    while left := processes() - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def processes() -> set[psutil.Process]:
    """All below this one that run, but for the database server that other tests keep."""
    return {each for each in psutil.Process().children(recursive=True) if is_alive(each)}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.name() != "postgres"
    except psutil.NoSuchProcess:
        return False


def runs() -> list[int]:
    """The processes of the run that is on: itself, which leads a group of its own, then its workers."""
    own = [each.pid for each in processes() if os.getpgid(each.pid) != os.getpgid(0)]
    return sorted(own, key=lambda pid: os.getpgid(pid) != pid)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**62))
def test_every_cell_has_one_turn_a_round(cells: int, rounds: int, seed: int) -> None:
    """A round is a block: all of it before the next one, each cell once, at its place."""
    numbers: Any = list(range(cells))
    found = list(turns(numbers, rounds, seed))
    assert [turn.round for turn in found] == [number for number in range(rounds) for _ in range(cells)]
    for number in range(rounds):
        block = [turn for turn in found if turn.round == number]
        assert {turn.cell for turn in block} == set(numbers)
        assert len(block) == cells
        assert [turn.position for turn in block] == list(range(cells))


def test_the_order_is_drawn_from_the_seed_anew_each_round() -> None:
    """The same seed gives the same order; rounds, and seeds, differ."""

    def drawn(seed: int) -> list[tuple[Any, ...]]:
        numbers: Any = list(range(20))
        found = list(turns(numbers, 3, seed))
        return [tuple(turn.cell for turn in found if turn.round == number) for number in range(3)]

    assert drawn(1) == drawn(1)
    assert len({*drawn(1), *drawn(2)}) == 6


def test_a_run_says_what_it_found(context: ForkServerContext, job: MakeJob) -> None:
    """The fields of its record come over, and each epoch as it ends."""
    told: list[int] = []
    found = one(context, job(), 60, lambda number, *_: told.append(number))
    assert found["status"] == "ok"
    assert told == list(range(len(found["epochs"])))
    assert found["train_images"] == 64


def test_an_error_is_a_record_with_its_line_and_status(context: ForkServerContext, job: MakeJob, tmp_path: Path) -> None:
    """A store that can't be used fails the run as it would fail the command."""
    found = one(context, job(tmp_path / "none"), 60, silent)
    assert (found["status"], found["exit_status"]) == ("failed", 4)
    assert found["error"] == f"{tmp_path}/none holds no store; make one with `loadstone pack`"


def test_an_unforeseen_error_is_a_record_that_says_where(context: ForkServerContext, job: MakeJob) -> None:
    """Its kind, its words and its line of code, on one line."""
    found = one(context, job(device="nonsense"), 60, silent)
    assert (found["status"], found["exit_status"]) == ("failed", 1)
    assert found["error"].startswith("RuntimeError: ")
    assert found["error"].endswith(")")
    assert "worker.py, line " in found["error"]
    assert "\n" not in found["error"]


def test_a_run_that_is_killed_is_a_record(context: ForkServerContext, job: MakeJob) -> None:
    """The kernel's out-of-memory killer says nothing; the record does, at once, and its workers end too."""

    def kill(*_: object) -> None:
        first, *workers = runs()
        assert len(workers) >= 2
        os.kill(first, signal.SIGKILL)
        killed.append(time.monotonic())

    killed: list[float] = []
    found = one(context, job(endless=True), 120, kill)
    assert time.monotonic() - killed[0] < 2  # PyTorch's workers look for their parent every 5 s, and hold its pipe open
    assert (found["status"], found["exit_status"]) == ("failed", 1)
    assert found["error"] == "the run's process died (SIGKILL, perhaps for want of memory)"


def test_a_run_that_takes_too_long_is_ended(context: ForkServerContext, job: MakeJob) -> None:
    """Its record says how long it might have taken; it and its workers are gone."""
    begin = time.monotonic()
    found = one(context, job(endless=True), 2.5, silent)
    assert found == {"status": "timeout", "error": "it took longer than 2.5 s", "exit_status": 1}
    assert time.monotonic() - begin < 30


def test_an_interrupted_run_is_ended(context: ForkServerContext, job: MakeJob) -> None:
    """Ctrl-C reaches the runner alone; the run that was on ends with its workers, and the interruption goes on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one(context, job(endless=True), 120, interrupt)


def test_a_run_has_a_group_of_its_own(context: ForkServerContext, job: MakeJob) -> None:
    """So Ctrl-C in a terminal does not reach it, and all of it can be ended at once."""
    groups: list[set[int]] = []

    def look(*_: object) -> None:
        if not groups:
            groups.append({os.getpgid(pid) for pid in runs()})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one(context, job(endless=True), 120, look)
    assert len(groups[0]) == 1
    assert os.getpgid(0) not in groups[0]


def ready(root: Path, **fields: Any) -> Ready:
    cell = Cell(dataset=DATA, backend="mmap", codec="raw", mode="load", protocol="quick", **fields)
    return Ready(cell, root, None, Manifest.read(root))


def run_all(
    folder: Path,
    cells: list[Ready],
    missing: list[NotReady],
    *,
    rounds: int = 2,
    reference: Callable[[], float] = lambda: 1.0,
    earlier: Sequence[Record] = (),
) -> list[Record]:
    planned = Experiment(name="tiny", cells=tuple(each.cell for each in cells), rounds=rounds, seed=7, timeout=9)
    with Watch(Console(file=io.StringIO()), planned.cells, rounds) as watch:
        return Runner(planned, folder, 1, "cpu", watch, reference).run(cells, missing, earlier)


def test_every_run_is_recorded_in_its_turn(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what can't run here, first; a failed run stops no other; each round trains with a seed of its own."""
    jobs: list[tuple[Cell, int, float]] = []

    def stub(_context: object, job: Job, timeout: float, _tell: Tell, _drop: Drop) -> dict[str, Any]:
        jobs.append((job.cell, job.seed, timeout))
        if job.cell.workers == 1:
            return {"status": "failed", "error": "it broke", "exit_status": 4}
        return {"status": "ok", "path_taken": "a path"}

    monkeypatch.setattr(runner, "one", stub)
    cells = [ready(store, workers=number) for number in range(3)]
    lost = NotReady(
        cells[0].cell.model_copy(update={"backend": "gpu_mmap"}), "synthetic", Unavailable("gpu_mmap", "no GPU", "buy one")
    )
    found = run_all(tmp_path, cells, [lost])
    assert record.read(tmp_path) == found
    assert (found[0].status, found[0].error, found[0].exit_status) == ("unavailable", "no GPU; buy one", 1)
    planned = [(turn.cell.cell, turn.round, turn.position) for turn in turns(cells, 2, 7)]
    assert [(each.cell, each.round, each.position) for each in found[1:]] == planned
    assert [each.seed for each in found[1:]] == [7] * 3 + [8] * 3
    assert jobs == [(each.cell, each.seed, 9) for each in found[1:]]
    assert {each.status for each in found[1:] if each.cell.workers == 1} == {"failed"}
    assert {each.status for each in found[1:] if each.cell.workers != 1} == {"ok"}
    manifest = Manifest.read(store)
    for each in found[1:]:
        assert each.content_sha256 == manifest.splits["train"].content_sha256
        assert (each.store_bytes, each.pack_seconds) == (manifest.store_bytes, manifest.pack_seconds)
        assert each.dataset == manifest.content.dataset


def test_what_ran_before_an_interruption_is_recorded(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is on the disk before the next one starts."""
    kept: list[int] = []

    def stub(*_: object) -> dict[str, Any]:
        kept.append(len(record.read(tmp_path)) if kept else 0)
        if len(kept) == 3:
            raise KeyboardInterrupt
        return {"status": "ok"}

    monkeypatch.setattr(runner, "one", stub)
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path, [ready(store), ready(store, workers=1)], [])
    assert kept == [0, 1, 2]
    assert len(record.read(tmp_path)) == 2


def test_a_record_that_cannot_be_written_ends_the_experiment(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring on without recording would be time lost."""
    monkeypatch.setattr(runner, "one", lambda *_: {"status": "ok"})
    with pytest.raises(RoomError):
        run_all(tmp_path / "missing", [ready(store)], [])


def test_a_turn_is_a_value(store: Path) -> None:
    """Equal turns are equal: the drawn order can be compared with the recorded one."""
    cell = ready(store)
    assert Turn(cell, 0, 1) == Turn(cell, 0, 1)


# ---- noise: recorded times of the reference kernel, replayed


def replay(*seconds: float) -> Callable[[], float]:
    """The four looks before the first run, then one before and one after every run."""
    times = iter(seconds)
    return lambda: next(times)


CALM = (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("looks", "attempts"),
    [
        ((1.0, 1.4), [(0, False, 1.4)]),
        ((1.0, 9.0, 1.0, 1.0), [(0, True, 9.0), (1, False, 1.0)]),
        ((9.0, 1.0, 1.2, 1.1), [(0, True, 9.0), (1, False, 1.2)]),
        ((9.0, 9.0, 8.0, 8.0, 7.0, 7.0), [(0, True, 9.0), (1, True, 8.0), (2, True, 7.0)]),
    ],
)
def test_a_disturbed_run_is_made_again_a_stated_number_of_times(
    looks: tuple[float, ...],
    attempts: list[tuple[int, bool, float]],
    tmp_path: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that was slow before or after it marks a run; every attempt is recorded."""
    monkeypatch.setattr(runner, "one", lambda *_: {"status": "ok"})
    found = run_all(tmp_path, [ready(store)], [], rounds=1, reference=replay(*CALM, *looks))
    assert [(each.attempt, each.disturbed, each.reference_seconds) for each in found] == attempts
    assert record.read(tmp_path) == found


def test_a_run_s_own_result_repeats_nothing(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow run beside a calm machine stands; a failed one beside a busy machine is not made again."""
    slow = Epoch(total=99.0, wait=0, copy_=0, step=99.0, images=1, first_batch=1)
    results: list[dict[str, Any]] = [
        {"status": "ok", "epochs": (slow, slow)},
        {"status": "failed", "error": "it broke", "exit_status": 1},
    ]
    monkeypatch.setattr(runner, "one", lambda *_: results.pop(0))
    found = run_all(tmp_path, [ready(store)], [], rounds=2, reference=replay(*CALM, 1.0, 1.0, 9.0, 9.0))
    assert [(each.status, each.disturbed, each.attempt) for each in found] == [("ok", False, 0), ("failed", True, 0)]


# ---- resumed


def test_what_ended_well_is_not_run_again(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest keeps the order and places drawn for it; what failed is run again, what is unavailable not said twice."""
    monkeypatch.setattr(runner, "one", lambda *_: {"status": "ok"})
    cells = [ready(store, workers=number) for number in range(4)]
    lost = NotReady(cells[0].cell.model_copy(update={"backend": "dali"}), "synthetic", Unavailable("dali", "none", ""))
    whole = run_all(tmp_path, cells, [lost])
    failed = whole[3].model_copy(update={"status": "failed"})
    earlier = [*whole[:3], failed, whole[5]]
    (tmp_path / "again").mkdir()
    again = run_all(tmp_path / "again", cells, [lost], earlier=earlier)

    def places(records: Sequence[Record]) -> list[tuple[Cell, int, int, int]]:
        return [(each.cell, each.round, each.position, each.seed) for each in records]

    assert places(again) == places([whole[3], whole[4], *whole[6:]])


# ---- cold


def test_the_runner_drops_pages_for_a_cold_run_before_each_epoch(context: ForkServerContext, job: MakeJob) -> None:
    """The run waits for it; what stayed, and why it was not cold, stand in its record."""
    dropped: list[int] = []

    def drop() -> Dropped:
        dropped.append(1)
        return Dropped(0.5, "half of it stayed")

    cold = job()
    cold = Job(cold.cell.model_copy(update={"cache": "cold"}), cold.root, None, 0, 1, "cpu")
    found = one(context, cold, 60, silent, drop)
    assert found["status"] == "ok"
    assert len(dropped) == len(found["epochs"])
    assert {each.resident for each in found["epochs"]} == {0.5}
    assert {each.passes for each in found["epochs"]} == {1}
    assert found["not_cold"] == "half of it stayed"
    assert found["path_taken"].endswith("; not cold: half of it stayed")


def test_a_drop_that_fails_is_the_run_s_failure(context: ForkServerContext, job: MakeJob) -> None:
    """A server that does not start again ends this run alone, with its line and status."""

    def drop() -> Dropped:
        raise DatabaseError("embedded server", "it did not start", "see its log")

    cold = job()
    cold = Job(cold.cell.model_copy(update={"cache": "cold"}), cold.root, None, 0, 1, "cpu")
    found = one(context, cold, 60, silent, drop)
    assert (found["status"], found["exit_status"]) == ("failed", 4)
    assert "it did not start" in found["error"]


def test_a_killed_worker_is_a_record(context: ForkServerContext, job: MakeJob) -> None:
    """A worker that the kernel ends fails its run, with a line that says so, and hangs nothing."""
    killed: list[int] = []

    def kill(*_: object) -> None:
        if not killed:
            killed.append(runs()[-1])
            os.kill(killed[0], signal.SIGKILL)

    found = one(context, job(endless=True), 60, kill)
    assert found["status"] == "failed"
    assert "DataLoader worker" in found["error"]
    assert str(killed[0]) in found["error"]


def test_memory_is_watched_from_outside(context: ForkServerContext, job: MakeJob) -> None:
    """The most that was seen is no less than what the run saw at its end; threads of every pool are those asked for."""
    found = one(context, job(), 60, silent)
    assert found["peak_pss_bytes"] >= found["pss_bytes"] > 10 * 2**20
    assert set(found["thread_pools"].values()) == {1}
    assert "torch" in found["thread_pools"]
