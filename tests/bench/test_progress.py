"""Progress: what a log and a terminal say while an experiment runs."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from bench.experiment import Cell
from bench.record import Record
from bench.running.progress import Remaining, Watch, duration, packing

MakeRecord = Callable[..., Record]


def cell(backend: str) -> Cell:
    return Cell(dataset="cifar10", backend=backend, model="resnet8", protocol="quick", mode="train")


def test_nothing_is_known_before_the_first_run() -> None:
    """A guess made of nothing is not shown."""
    assert Remaining([cell("mmap")], 3).seconds() is None


def test_time_left_is_each_cells_own_mean() -> None:
    """Cells that ran take what they took; others the mean of all runs so far."""
    left = Remaining([cell("mmap"), cell("hdf5"), cell("postgres")], 2)
    left.ran(cell("mmap"), 2.0)
    assert left.seconds() == pytest.approx(5 * 2.0)
    left.ran(cell("hdf5"), 10.0)
    assert left.seconds() == pytest.approx(2.0 + 10.0 + 2 * 6.0)
    left.ran(cell("hdf5"), 20.0)
    assert left.seconds() == pytest.approx(2.0 + 2 * (32 / 3))
    for _ in range(2):
        left.ran(cell("postgres"), 1.0)
    left.ran(cell("mmap"), 4.0)
    assert left.seconds() == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.7, "1 min"), (61, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    """No ``60 s`` and no ``60 min``."""
    assert duration(seconds) == words


def test_a_log_gets_a_line_a_run(make: MakeRecord) -> None:
    """Each line stands alone: what ran, in which round, how fast, how much time is left; no control characters."""
    file = io.StringIO()
    ok = make("mmap")
    bad = make("hdf5:h5py", status="failed", error="it broke [here]", round=1)
    with Watch(Console(file=file, width=40), [ok.cell, bad.cell], 2) as watch:
        watch.started(ok.cell, 0)
        watch.epoch(ok.cell, 0, 3, ok.epochs[0])
        watch.ended(ok)
        watch.ended(bad)
    lines = file.getvalue().rstrip().splitlines()
    assert lines == [
        "[1/4] round 1/2  cifar10 mmap resnet8 train: 1 s an epoch, 512 images/s  (30 s left)",
        "[2/4] round 2/2  cifar10 hdf5:h5py resnet8 train: failed: it broke [here]  (20 s left)",
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", file.getvalue())


def test_a_terminal_shows_what_is_running(make: MakeRecord) -> None:
    """The live line names the cell, the epoch and its speed; brackets in a name are shown as they are."""
    file = io.StringIO()
    ok = make("mmap", dataset="image_folder:[red]")
    with Watch(Console(file=file, width=160, force_terminal=True), [ok.cell], 2) as watch:
        watch.started(ok.cell, 0)
        watch.epoch(ok.cell, 1, 3, ok.epochs[1])
    assert "image_folder:[red] mmap resnet8 train  epoch 2/3  512 images/s" in file.getvalue()


def test_packing_is_told_to_a_log_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long packing is seen to move, a short one says nothing."""
    file = io.StringIO()
    seconds = iter([0.0, 1.0, 11.0, 11.0, 12.0, 22.5, 22.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with packing(Console(file=file), "packing cifar10 as mmap, raw", 60_000) as tell:
        for _ in range(4):
            tell(1000)
    assert file.getvalue().splitlines() == [
        "packing cifar10 as mmap, raw: 2,000 of 60,000",
        "packing cifar10 as mmap, raw: 4,000 of 60,000",
    ]


def test_packing_on_a_terminal_leaves_nothing() -> None:
    """Its bar is gone when it is done, and names are shown as they are."""
    file = io.StringIO()
    with packing(Console(file=file, force_terminal=True, width=100), "packing [a] as mmap", 10) as tell:
        tell(10)
    assert "packing [a] as mmap" in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K")
