"""``loadstone calibrate``: many small experiments on this machine whose right answers are known.

Equal cells under two names say how often chance is taken for a difference; cells slowed on purpose say how often a
difference is found, and how near its size the estimate comes; runs by hand say what the harness costs. All go through the
runner that every experiment goes through. ``bench.calibrating.calibration`` computes what they say.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import click
from rich.console import Console

from bench import machine
from bench.calibrating import calibration, figures, words
from bench.calibrating.calibration import PLANTED, Harness, Measured
from bench.experiment import Cell, Experiment
from bench.record import Record
from bench.reporting.report import ENVIRONMENT, write
from bench.running.prepare import Place, Preparation, Ready
from bench.running.progress import Watch, duration, packing, plain_console
from bench.runs import gather
from datasets.errors import RoomError, RunFailed, UsageError

INTERRUPTED = 130
SHORT = 3  # the exit status of what fell short

# JPEG, and a model that costs next to nothing: about two fifths of an epoch are loading.
DATA = "synthetic:train=4000,val=16,size=32,codec=jpeg"
BASE = Cell(dataset=DATA, backend="mmap", mode="train", model="linear", protocol="quick")
# The harness's worst case: short batches, and nothing but loading.
LOAD = BASE.model_copy(update={"mode": "load", "model": None})
TRAIN = Cell(dataset="synthetic:train=512,val=16,size=32", backend="mmap", mode="train", model="resnet8", protocol="quick")
ROUNDS = 5  # an experiment's default
TIMEOUT = 120.0


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        experiments: small ones. pairs: of equal cells in each. planted_every: every how many experiments hold slowed cells.
        load, train: pairs of runs, one under the harness and one by hand.
    """

    experiments: int
    pairs: int
    planted_every: int
    load: int
    train: int


FULL = Size(experiments=40, pairs=5, planted_every=2, load=100, train=40)
QUICK = Size(experiments=2, pairs=2, planted_every=1, load=3, train=2)


def experiment(number: int, size: Size) -> Experiment:
    """The small experiment of that number: pairs of equal cells, and in some, slowed ones."""
    names = [f"{pair + 1}{half}" for pair in range(size.pairs) for half in "ab"]
    cells = [BASE.model_copy(update={"alias": name}) for name in names]
    if number % size.planted_every == 0:
        cells += [BASE.model_copy(update={"alias": f"planted {part:g}", "planted": part}) for part in PLANTED]
    # Seeds apart by more than the rounds, so that no two experiments read in one order or shuffle their cells alike.
    return Experiment(name="calibration", cells=tuple(cells), rounds=ROUNDS, seed=1000 * number, timeout=TIMEOUT)


def execute(out: Path, place: Place, threads: int | None, *, quick: bool) -> int:
    """Run what ``out`` does not hold yet, and report; returns the exit status."""
    console = plain_console()
    calibrator = Calibrator(out, place, threads or machine.cores(), QUICK if quick else FULL, console)
    interrupted = False
    try:
        calibrator.run()
    except KeyboardInterrupt:
        interrupted = True
        click.echo(f"loadstone: interrupted; the experiments that finished are in {out}; the same command goes on", err=True)
    if not (out / calibration.RUNS).exists():
        return INTERRUPTED
    status = report(out, console)
    return INTERRUPTED if interrupted else status


def report(out: Path, console: Console) -> int:
    """Make ``calibration.md`` of what ``out`` holds, and print it; the exit status says whether anything fell short.

    Raises:
        DataError: it holds no calibration. RoomError: the report can't be written.
    """
    found = calibration.read(out)
    text = words.to_markdown(found)
    write(out / calibration.REPORT, text.encode())
    console.print(text)
    console.print(f"Runs and report: {out}")
    return SHORT if figures.short(found) else 0


class Calibrator:
    """Runs the parts of a calibration one after the other, and keeps what each gave as soon as it is over.

    Args:
        out: its folder. threads: of torch. size: how much is run.
    """

    def __init__(self, out: Path, place: Place, threads: int, size: Size, console: Console) -> None:
        self.out, self.place, self.threads, self.size, self.console = out, place, threads, size, console

    def run(self) -> None:
        """Everything that is not there yet.

        Raises:
            RunFailed: a run did not end well. UsageError: ``out`` holds a calibration of another size.
        """
        self._begin()
        with self._ready([BASE, LOAD, TRAIN]) as (base, load, train):
            left = [number for number in range(self.size.experiments) if not self._has(number)]
            started = time.monotonic()
            for done, number in enumerate(left):
                self._experiment(number, base)
                self._say(f"experiment {number + 1} of {self.size.experiments}", started, done + 1, len(left))
            for ready, pairs in ((load, self.size.load), (train, self.size.train)):
                self._harness(ready, pairs)

    def _begin(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RoomError(self.out, error) from error
        shutil.rmtree(self._scratch, ignore_errors=True)  # of an experiment that a kill ended
        environment = machine.environment(self.place.stores, threads=self.threads, device="cpu")
        facts = {**environment, "calibration": [self.size.experiments, self.size.pairs, self.size.planted_every]}
        path = self.out / ENVIRONMENT
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(facts)):
            raise UsageError(f"{self.out} holds a calibration of another machine, version or size; name another folder")
        write(path, (json.dumps(facts, indent=1) + "\n").encode())

    @property
    def _scratch(self) -> Path:
        return self.out / "unfinished"

    @contextmanager
    def _ready(self, cells: Sequence[Cell]) -> Iterator[list[Ready]]:
        plan = Experiment(name="calibration", cells=tuple(cells))
        preparation = Preparation(self.place, plan, self.console.print, functools.partial(packing, self.console))
        with preparation.cleanup:
            found = [preparation.ready(cell) for cell in cells]
            yield [ready for ready in found if isinstance(ready, Ready)]

    def _has(self, number: int) -> bool:
        return any(one.experiment == number for one in calibration.measured(self.out))

    def _experiment(self, number: int, base: Ready) -> None:
        plan = experiment(number, self.size)
        ready = [_as(base, cell) for cell in plan.cells]
        records = self._records(plan, ready)
        rows = [_measured(number, record) for one in gather(records) for record in one.ok.values()]
        if len(rows) != len(ready) * plan.rounds:
            lost = next(record for record in records if record.status != "ok")
            raise RunFailed(f"calibration, {lost.cell.label}: {lost.status}: {lost.error}; run the same command to go on")
        calibration.keep(self.out, rows)

    def _records(self, plan: Experiment, ready: list[Ready]) -> list[Record]:
        from bench.running.runner import Runner

        self._scratch.mkdir(exist_ok=True)
        silent = Watch(Console(quiet=True), [each.cell for each in ready], plan.rounds)
        try:
            return Runner(plan, self._scratch, self.threads, "cpu", silent).run(ready, [])
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _harness(self, ready: Ready, pairs: int) -> None:
        from bench.running.runner import fork_server

        context, started = fork_server(), time.monotonic()
        have = sum(one.mode == ready.cell.mode for one in calibration.harness(self.out))
        for number in range(have, pairs):
            calibration.keep_harness(self.out, self._pair(context, ready, number))
            if (number + 1) % 10 == 0 or number + 1 == pairs:
                what = f"harness against by hand, {ready.cell.mode}: {number + 1} of {pairs}"
                self._say(what, started, number + 1 - have, pairs - have)

    def _pair(self, context: ForkServerContext, ready: Ready, number: int) -> Harness:
        """One run under the harness and one by hand, in an order drawn by chance."""
        plan = Experiment(name="calibration", cells=(ready.cell,), rounds=1, seed=number, timeout=TIMEOUT, repeats=0)

        def under() -> float:
            record = self._records(plan, [ready])[-1]
            if record.epoch_seconds is None:
                raise RunFailed(
                    f"calibration, {ready.cell.label}: {record.status}: {record.error}; run the same command to go on"
                )
            return record.epoch_seconds

        def plain() -> float:
            return _by_hand(context, ready, number, self.threads)

        if random.Random(number).random() < 0.5:
            harness, by_hand = under(), plain()
        else:
            by_hand, harness = plain(), under()
        return Harness(mode=ready.cell.mode, pair=number, harness_seconds=harness, plain_seconds=by_hand)

    def _say(self, what: str, started: float, done: int, total: int) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        self.console.print(f"{what}" + (f"  ({duration(left)} left of this part)" if done < total else ""))


def _as(base: Ready, cell: Cell) -> Ready:
    return replace(base, cell=cell.model_copy(update={"codec": base.cell.codec}))


def _measured(number: int, record: Record) -> Measured:
    images = sum(epoch.images for epoch in record.measured)
    held_up = sum(epoch.wait + epoch.copy_ for epoch in record.measured)
    return Measured(
        experiment=number,
        round=record.round,
        position=record.position,
        cell=record.cell.alias,
        planted=record.cell.planted,
        loading=held_up / images,
        wait_share=held_up / sum(epoch.total for epoch in record.measured),
        timed_seconds=min(epoch.total for epoch in record.measured),
        disturbed=record.disturbed,
    )


def _by_hand(context: ForkServerContext, ready: Ready, seed: int, threads: int) -> float:
    from bench.calibrating import by_hand

    receiver, sender = context.Pipe(duplex=False)
    what = by_hand.Plain(ready.cell, ready.root, seed, threads)
    process = context.Process(target=by_hand.main, args=(what, sender), name="loadstone by hand")
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            raise RunFailed(f"calibration: a run by hand took longer than {TIMEOUT:g} s; run the same command to go on")
        return float(receiver.recv())
    except EOFError:
        raise RunFailed("calibration: a run by hand died; run the same command to go on") from None
    finally:
        receiver.close()
        process.kill()
        process.join()
