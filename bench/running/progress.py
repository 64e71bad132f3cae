"""What a person sees while an experiment runs: a live line on a terminal, a line a finished run in a log."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.experiment import Cell
from bench.record import Epoch, Record
from loaders import pack

# A log is told of packing this often, so that a long one is seen to move and a short one says nothing.
PACKING_SECONDS = 10.0


def plain_console() -> Console:
    """Standard output, where names are printed as they are: brackets are no markup, and a log's lines are not cut."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


class Remaining:
    """Seconds left: each cell's mean so far, or for cells not yet run the mean of all."""

    def __init__(self, cells: Sequence[Cell], rounds: int) -> None:
        self._left = dict.fromkeys(cells, rounds)
        self._seconds: dict[Cell, list[float]] = defaultdict(list)

    def ran(self, cell: Cell, seconds: float) -> None:
        """One run of ``cell`` is over."""
        self._left[cell] -= 1
        self._seconds[cell].append(seconds)

    def skipped(self, cell: Cell) -> None:
        """One run of ``cell`` need not be made."""
        self._left[cell] -= 1

    def seconds(self) -> float | None:
        """None before the first run is over."""
        seen = [second for each in self._seconds.values() for second in each]
        if not seen:
            return None
        overall = sum(seen) / len(seen)
        return sum(left * self._mean(cell, overall) for cell, left in self._left.items())

    def _mean(self, cell: Cell, overall: float) -> float:
        known = self._seconds[cell]
        return sum(known) / len(known) if known else overall


class Watch:
    """Shows an experiment's progress on ``console``; a context manager."""

    def __init__(self, console: Console, cells: Sequence[Cell], rounds: int) -> None:
        self.console = console
        self.total = len(cells) * rounds
        self.rounds = rounds
        self._done = 0
        self._remaining = Remaining(cells, rounds)
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._live.add_task("starting", total=self.total)

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def started(self, cell: Cell, number: int) -> None:
        """A run begins, in round ``number``."""
        self._live.update(self._task, description=f"round {number + 1}/{self.rounds}  {cell.label}")

    def epoch(self, cell: Cell, number: int, epochs: int, epoch: Epoch) -> None:
        """An epoch of the run that is on has ended."""
        rate = f"{epoch.images / epoch.total:,.0f} images/s"
        self._live.update(self._task, description=f"{cell.label}  epoch {number + 1}/{epochs}  {rate}{self._left()}")

    def ended(self, record: Record, *, last: bool = True) -> None:
        """A run is over and recorded; not ``last`` where it is made again, since the machine was disturbed beside it."""
        if last:
            self._done += 1
            self._remaining.ran(record.cell, record.seconds)
            self._live.advance(self._task)
        where = f"[{self._done}/{self.total}] round {record.round + 1}/{self.rounds}"
        again = "" if last else "  (the machine was disturbed: again)"
        _say(self._live.console, f"{where}  {record.cell.label}: {_outcome(record)}{again}{self._left()}")

    def skipped(self, cell: Cell) -> None:
        """A run that an earlier start of the experiment has recorded."""
        self._done += 1
        self._remaining.skipped(cell)
        self._live.advance(self._task)

    def _left(self) -> str:
        left = self._remaining.seconds()
        return "" if not left else f"  ({duration(left)} left)"


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _outcome(record: Record) -> str:
    seconds = record.epoch_seconds
    if record.status != "ok" or seconds is None:
        return f"{record.status}: {record.error}"
    images = sum(epoch.images for epoch in record.measured) / sum(epoch.total for epoch in record.measured)
    return f"{seconds:.3g} s an epoch, {images:,.0f} images/s"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def packing(console: Console, what: str, total: int) -> Iterator[pack.Progress]:
    """Show a store being packed."""
    if console.is_terminal:
        words = TextColumn("{task.description}", markup=False)
        with Progress(words, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=console, transient=True) as live:
            task = live.add_task(what, total=total)
            yield lambda count: live.advance(task, count)
        return
    last, gone = time.monotonic(), 0

    def tell(count: int) -> None:
        nonlocal last, gone
        gone += count
        if time.monotonic() - last > PACKING_SECONDS:
            last = time.monotonic()
            _say(console, f"{what}: {gone:,} of {total:,}")

    yield tell
