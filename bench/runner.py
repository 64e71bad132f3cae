"""Runs an experiment: every cell once a round, in random order, each run in a process of its own."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from bench import record
from bench.experiment import Experiment
from bench.prepare import NotReady, Ready
from bench.progress import Watch
from bench.record import Epoch, Record

# How long a process may take to end once it has said what it found.
ENDING_SECONDS = 10.0


@dataclass(frozen=True)
class Turn:
    """One run that is due: a cell, its round, and its place in the round."""

    cell: Ready
    round: int
    position: int


def turns(cells: list[Ready], rounds: int, seed: int) -> Iterator[Turn]:
    """Every cell once a round; the order of each round is drawn from the seed."""
    for number in range(rounds):
        drawn = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64))).permutation(len(cells))
        for position, place in enumerate(drawn):
            yield Turn(cells[place], number, position)


def fork_server() -> ForkServerContext:
    """Processes that start by a fork of one that has imported everything and touched no device."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.worker"])
    return context


@dataclass(frozen=True)
class Runner:
    """Runs an experiment's cells and appends a record of each to ``folder``.

    Attributes:
        threads: of torch's operations. device: ``cpu`` or ``cuda``.
    """

    experiment: Experiment
    folder: Path
    threads: int
    device: str
    watch: Watch

    def run(self, cells: list[Ready], missing: list[NotReady]) -> list[Record]:
        """Record why cells are missing, then run the others, every round; returns all records.

        Raises:
            RoomError: a record can't be written. KeyboardInterrupt: what has finished is recorded.
        """
        records = [self._keep(self._unavailable(cell)) for cell in missing]
        context = fork_server()
        for turn in turns(cells, self.experiment.rounds, self.experiment.seed):
            self.watch.started(turn.cell.cell, turn.round)
            kept = self._keep(self._run(context, turn))
            self.watch.ended(kept)
            records.append(kept)
        return records

    def _keep(self, found: Record) -> Record:
        record.append(self.folder, found)
        return found

    def _unavailable(self, cell: NotReady) -> Record:
        return Record(
            cell=cell.cell,
            round=0,
            position=0,
            seed=self.experiment.seed,
            status="unavailable",
            error="; ".join(filter(None, (cell.error.reason, cell.error.remedy))),
            exit_status=cell.error.exit_status,
            dataset=cell.dataset,
            started=_now(),
            seconds=0.0,
        )

    def _run(self, context: ForkServerContext, turn: Turn) -> Record:
        from bench.worker import Job  # torch, which reading an experiment does not need

        ready, manifest = turn.cell, turn.cell.manifest
        seed = self.experiment.seed + turn.round
        job = Job(ready.cell, ready.root, ready.server, seed, self.threads, self.device)
        started, begin = _now(), time.perf_counter()
        fields = one(context, job, self.experiment.timeout, lambda *news: self.watch.epoch(ready.cell, *news))
        return Record(
            cell=ready.cell,
            round=turn.round,
            position=turn.position,
            seed=seed,
            dataset=manifest.content.dataset,
            content_sha256=manifest.splits["train"].content_sha256,
            store_bytes=manifest.store_bytes,
            pack_seconds=manifest.pack_seconds,
            started=started,
            seconds=time.perf_counter() - begin,
            **fields,
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def one(context: ForkServerContext, job: Any, timeout: float, tell: Callable[[int, int, Epoch], None]) -> dict[str, Any]:
    """Run a job in a process of its own; returns the fields of its record that the run decides.

    A process that dies or takes longer than ``timeout`` seconds is a record too, and leaves no process behind.
    """
    from bench import worker

    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker.main, args=(job, sender), name="loadstone run")
    process.start()
    sender.close()
    try:
        found = _listen(receiver, process, time.monotonic() + timeout, tell)
        if found is None:
            return {"status": "timeout", "error": f"it took longer than {timeout:g} s", "exit_status": 1}
        process.join(ENDING_SECONDS)
        return found or _failed(f"the run's process died ({_how(process.exitcode)})")
    finally:
        receiver.close()
        _end(process)


def _listen(
    receiver: Connection, process: BaseProcess, deadline: float, tell: Callable[[int, int, Epoch], None]
) -> dict[str, Any] | None:
    """What the run found: nothing where its process ended without a word, None where the deadline passed."""
    # The process is watched too: workers that outlive it hold its end of the pipe open.
    while ready := wait([receiver, process.sentinel], max(0.0, deadline - time.monotonic())):
        if receiver not in ready:
            return {}
        try:
            kind, *news = receiver.recv()
        except (EOFError, OSError):  # OSError: killed in the middle of a message
            return {}
        if kind == "done":
            return {"status": "ok", **news[0]}
        if kind == "failed":
            return _failed(*news)
        tell(*news)
    return None


def _failed(error: str, exit_status: int = 1) -> dict[str, Any]:
    return {"status": "failed", "error": error, "exit_status": exit_status}


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    return f"{signal.Signals(-code).name}" + (", perhaps for want of memory" if code == -signal.SIGKILL else "")


def _end(process: BaseProcess) -> None:
    """End what is left of the run's group: itself, and workers that outlived it."""
    if process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
    process.join()
