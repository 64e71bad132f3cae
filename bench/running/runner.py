"""Runs an experiment: every cell once a round, in random order, each run in a process of its own."""

from __future__ import annotations

import datetime
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine, record
from bench.experiment import Experiment
from bench.record import Epoch, Record
from bench.running import gpu_usage, leftovers, noise, resume
from bench.running.cache import Drop, Dropped
from bench.running.dropping import drop_store
from bench.running.prepare import NotReady, Ready
from bench.running.progress import Watch
from bench.running.usage import Sampler
from datasets.errors import LoadstoneError

# How long a process may take to end once it has said what it found.
ENDING_SECONDS = 10.0
# Times that the reference kernel runs before the first run, for a first notion of what is calm.
_FIRST_LOOKS = 4


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
    os.environ[machine.WAIT_POLICY] = machine.wait_policy()  # before the server loads OpenMP
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # NVML's order: the GPU that is watched is the one that trains
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.running.preload"])
    with leftovers.scratch():
        ensure_running()
    return context


@dataclass(frozen=True)
class Runner:
    """Runs an experiment's cells and appends a record of each to ``folder``.

    Attributes:
        threads: of torch's operations. device: ``cpu`` or ``cuda``.
        reference: times the reference kernel; by default ``bench.running.noise``'s, made when the runs start.
    """

    experiment: Experiment
    folder: Path
    threads: int
    device: str
    watch: Watch
    reference: Callable[[], float] | None = None

    def run(self, cells: list[Ready], missing: list[NotReady], earlier: Sequence[Record] = ()) -> list[Record]:
        """Record why cells are missing, then run the others, every round; returns the records that this made.

        Args:
            cells: those that can run.
            missing: those that can't.
            earlier: of the same experiment, cut short before: what ended well in them is not run again.

        Raises:
            RoomError: a record can't be written. KeyboardInterrupt: what has finished is recorded.
        """
        known = {one.cell for one in earlier if one.status == "unavailable"}
        records = [self._keep(self._unavailable(cell)) for cell in missing if cell.cell not in known]
        finished = resume.done(earlier)
        context = fork_server()
        reference = self.reference or noise.Reference()
        seen = [one.reference_seconds for one in earlier if one.reference_seconds is not None]
        seen = seen or [reference() for _ in range(_FIRST_LOOKS)]
        for turn in turns(cells, self.experiment.rounds, self.experiment.seed):
            if (turn.cell.cell, turn.round) in finished:
                self.watch.skipped(turn.cell.cell)
                continue
            self.watch.started(turn.cell.cell, turn.round)
            records += self._take(context, turn, reference, seen)
        return records

    def _take(
        self, context: ForkServerContext, turn: Turn, reference: Callable[[], float], seen: list[float]
    ) -> Iterator[Record]:
        """Run a turn, and again while the machine was disturbed beside it; what the run itself found decides nothing."""
        for attempt in range(self.experiment.repeats + 1):
            before = reference()
            found = self._run(context, turn)
            slower = max(before, reference())
            seen.append(slower)
            disturbed = noise.is_disturbed(slower, seen)
            fields = {"reference_seconds": slower, "disturbed": disturbed, "attempt": attempt}
            kept = self._keep(found.model_copy(update=fields))
            last = not disturbed or kept.status != "ok" or attempt == self.experiment.repeats
            self.watch.ended(kept, last=last)
            yield kept
            if last:
                return

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
        from bench.running.worker import Job  # torch, which reading an experiment does not need

        ready, manifest = turn.cell, turn.cell.manifest
        seed = self.experiment.seed + turn.round
        server_pid = ready.database.pid if ready.database is not None else None
        job = Job(ready.cell, ready.root, ready.server, seed, self.threads, self.device, server_pid)
        started, begin = _now(), time.perf_counter()
        tell = functools.partial(self.watch.epoch, ready.cell)
        fields = one(context, job, self.experiment.timeout, tell, functools.partial(drop_store, ready))
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


def nothing_to_drop() -> Dropped:
    """Of a run whose store is not known here."""
    return Dropped(None, "nothing here drops its store's pages")


def one(
    context: ForkServerContext,
    job: Any,
    timeout: float,
    tell: Callable[[int, int, Epoch], None],
    drop: Drop = nothing_to_drop,
) -> dict[str, Any]:
    """Run a job in a process of its own; returns the fields of its record that the run decides.

    A process that dies or takes longer than ``timeout`` seconds is a record too, and leaves no process behind.
    """
    from bench.running import worker

    receiver, sender = context.Pipe()
    process = context.Process(target=worker.main, args=(job, sender), name="loadstone run")
    try:
        process.start()
        sender.close()
        assert process.pid is not None
        with Sampler(process.pid, gpu_usage.watch(job.device)) as sampler:
            found = _listen(receiver, process, time.monotonic() + timeout, tell, drop)
        if found is None:
            return {"status": "timeout", "error": f"it took longer than {timeout:g} s", "exit_status": 1}
        process.join(ENDING_SECONDS)
        found = found or _failed(f"the run's process died ({_how(process.exitcode)})")
        return found | sampler.fields(found.get("pss_bytes", 0))
    finally:
        receiver.close()
        _end(process)


def _listen(
    receiver: Connection,
    process: BaseProcess,
    deadline: float,
    tell: Callable[[int, int, Epoch], None],
    drop: Drop,
) -> dict[str, Any] | None:
    """What the run found: nothing where its process ended without a word, None where the deadline passed."""
    # The process is watched too: workers that outlive it hold its end of the pipe open.
    while ready := wait([receiver, process.sentinel], max(0.0, deadline - time.monotonic())):
        if receiver not in ready:
            return {}
        try:
            found = _heard(receiver, tell, drop)
        except (EOFError, OSError):  # OSError: killed in the middle of a message
            return {}
        except LoadstoneError as error:
            return _failed(str(error), error.exit_status)
        if found is not None:
            return found
    return None


def _heard(receiver: Connection, tell: Callable[[int, int, Epoch], None], drop: Drop) -> dict[str, Any] | None:
    """Take one message, and do what it asks for; what the run found where that was the last one."""
    kind, *news = receiver.recv()
    if kind == "done":
        return {"status": "ok", **news[0]}
    if kind == "failed":
        return _failed(*news)
    if kind == "drop":
        receiver.send(drop())
    else:
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
