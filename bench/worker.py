"""One run, in a process of its own: opens the store, trains or loads, and says what it took.

The fork server imports this module once; a run then starts by a fork of it, before any thread or device is touched.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import math
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from bench import limits, shuffle
from bench.experiment import Cell
from bench.record import Epoch
from datasets.errors import LoadstoneError
from loaders import order
from loaders.engine import Batch
from loaders.feed import FeedStore
from loaders.loading import Loader, loader
from loaders.order import Draws
from loaders.pack import open_store
from loaders.store import Store
from train.clock import Clock, EpochTimes, time_epoch
from train.loop import Augmentation, Task, Trainer, prepare_torch
from train.protocol import Protocol, protocol
from train.transfer import PlacedBatch, Transfer

# A pass over small data takes less than timers and schedulers are good for: passes are repeated until they fill this.
LOAD_SECONDS = 0.25
# Batches that ``compute`` holds in place and repeats; enough that weights, not one batch, are what caches hold.
COMPUTE_BATCHES = 16
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Tell = Callable[[int, int, Epoch], None]
"""Told of each epoch: its number, how many there will be, its times."""


@dataclass(frozen=True)
class Job:
    """What a run's process is given.

    Attributes:
        root: the store's folder. server: the database's DSN, where the store lives in one.
        seed: of order, draws and weights. threads: of torch's operations. device: ``cpu`` or ``cuda``.
    """

    cell: Cell
    root: Path
    server: str | None
    seed: int
    threads: int
    device: str


def main(job: Job, pipe: Connection) -> None:
    """Run a job, and send what comes of it.

    ``("epoch", number, epochs, Epoch)`` for each epoch, then ``("done", fields)`` or ``("failed", error, exit status)``.
    """
    os.setsid()  # one group for the run and its workers, which the runner can end as a whole
    _die_with_fork_server()
    threading.Thread(target=_die_with_runner, daemon=True).start()
    try:
        fields = run(job, lambda *news: pipe.send(("epoch", *news)))
    except LoadstoneError as error:
        pipe.send(("failed", str(error), error.exit_status))
    except Exception as error:  # whatever it was, the record must say it
        place = traceback.extract_tb(error.__traceback__)[-1]
        pipe.send(("failed", f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})", 1))
    else:
        pipe.send(("done", fields))
    finally:
        pipe.close()


def _die_with_fork_server() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _die_with_runner() -> None:
    """End the run and its workers when the runner ends, however that ends: the fork server lives as long as they do."""
    if (runner := multiprocessing.parent_process()) is not None:
        runner.join()
        os.killpg(os.getpgid(0), signal.SIGKILL)


def run(job: Job, tell: Tell) -> dict[str, Any]:
    """Run a job in this process; returns the fields of its record that the run knows."""
    device = torch.device(job.device)
    prepare_torch(job.threads, device)
    cell, recipe = job.cell, protocol(job.cell.protocol)
    store = open_store(job.root, path=cell.path, server=job.server)
    found: dict[str, Any] = {"threads": job.threads, "device": job.device}
    with _loader(store, cell, recipe, job) as batches:
        found |= _identity(batches)
        mode = {"train": _train, "load": _load, "compute": _compute, "limit": _limit}[cell.mode]
        found |= {"path_taken": batches.path_taken} | mode(batches, job, recipe, device, tell)
        found |= {"train_images": batches.images, "pss_bytes": _pss_bytes()}
    return found | {"cpu_seconds": _cpu_seconds(), "bytes_read": _bytes_read()}


def _loader(store: Store, cell: Cell, recipe: Protocol, job: Job) -> Loader:
    return loader(
        store,
        batch_size=recipe.batch_size,
        seed=job.seed,
        engine=cell.engine,
        fetch=cell.fetch,
        workers=cell.workers,
        limit=cell.limit,
        image_size=recipe.image_size,
        pin_memory=job.device != "cpu",
    )


def _identity(batches: Loader) -> dict[str, Any]:
    """Read the first epoch through once: its order's and pixels' digests. This also makes the store warm."""
    if isinstance(batches.reader.store, FeedStore):
        return _feed_identity(batches, batches.reader.store)
    indices = batches.order(0)
    digest = hashlib.sha256()
    size = batches.plan.batch_size
    out = np.empty((size, *batches.shape), np.uint8)
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        pixels = out[: len(part)]
        batches.reader.read(part, pixels, Draws(batches.plan.seed, 0, batches.plan.training))
        digest.update(pixels.data)
    batches.reader.close()
    return {"order_sha256": order.digest(indices), "pixel_sha256": digest.hexdigest()}


def _feed_identity(batches: Loader, store: FeedStore) -> dict[str, Any]:
    """The same of a feed, by what it delivers; and where that is in another order, how well it is shuffled."""
    digest = hashlib.sha256()
    indices, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    batches.set_epoch(0)
    for batch in batches:
        digest.update(np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy()).data)
        indices.append(batch.indices)
        labels.append(batch.labels.numpy())
    batches.set_epoch(0)
    came = np.concatenate(indices)
    found: dict[str, Any] = {
        "order_sha256": order.digest(came),
        "pixel_sha256": digest.hexdigest(),
        "differences": dict(store.differences),
    }
    if found["order_sha256"] != order.digest(batches.order(0)):
        wanted = np.sort(batches.order(0))
        found["order_quality"] = shuffle.judge(came, np.concatenate(labels), wanted, batches.plan.batch_size)
    return found


def _train(batches: Loader, job: Job, recipe: Protocol, device: torch.device, tell: Tell) -> dict[str, Any]:
    trainer, epochs = _trainer(batches, job, recipe, device), []
    for number in range(recipe.epochs):
        batches.set_epoch(number)
        epochs.append(_epoch(trainer.train_epoch(batches, number, Clock.of(device))))
        tell(number, recipe.epochs, epochs[-1])
    with loader(
        batches.reader.store,
        "val",
        batch_size=recipe.batch_size,
        limit=recipe.val_limit,
        image_size=recipe.image_size,
        seed=job.seed,
    ) as validation:
        scores = trainer.evaluate(validation)
        val_images = validation.images
    return {
        "epochs": tuple(epochs),
        "losses": trainer.losses,
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "val_images": val_images,
    }


def _trainer(batches: Loader, job: Job, recipe: Protocol, device: torch.device) -> Trainer:
    assert job.cell.model is not None
    task = Task.of(batches.reader.content, recipe)
    return Trainer(job.cell.model, recipe, task, len(batches), job.seed, device)


def _load(batches: Loader, job: Job, recipe: Protocol, device: torch.device, tell: Tell) -> dict[str, Any]:
    place, use = Transfer(device), _use(batches, job, recipe, device)

    def timed(passes: int) -> Epoch:
        repeated = itertools.chain.from_iterable(itertools.repeat(batches, passes))
        return _epoch(time_epoch(repeated, place, use, Clock.of(device)), passes)

    return {"epochs": _repeated(timed, recipe.epochs, tell)}


def _limit(batches: Loader, job: Job, recipe: Protocol, _: torch.device, tell: Tell) -> dict[str, Any]:
    kind, threads = job.cell.backend, max(1, job.cell.workers)
    seconds = limits.stopwatch(kind, batches.reader, batches.order(0), batches.shape, recipe.batch_size, threads)

    def timed(passes: int) -> Epoch:
        took = seconds(passes)
        return Epoch(total=took, wait=0, copy_=0, step=took, images=passes * batches.images, first_batch=0, passes=passes)

    return {"epochs": _repeated(timed, recipe.epochs, tell), "path_taken": limits.PATHS[kind]}


def _repeated(timed: Callable[[int], Epoch], number_of_epochs: int, tell: Tell) -> tuple[Epoch, ...]:
    """One pass as the first epoch, then epochs of as many passes as can be timed."""
    epochs = [timed(1)]
    tell(0, number_of_epochs, epochs[0])
    # One more pass, not counted, for the number of passes: the first one started workers and touched everything.
    passes = max(1, math.ceil(LOAD_SECONDS / timed(1).total)) if epochs[0].total < 2 * LOAD_SECONDS else 1
    for number in range(1, number_of_epochs):
        epochs.append(timed(passes))
        tell(number, number_of_epochs, epochs[-1])
    return tuple(epochs)


def _use(batches: Loader, job: Job, recipe: Protocol, device: torch.device) -> Callable[[PlacedBatch], int]:
    """What ``load`` does with a batch: touch it, or augment it where the protocol says so."""
    if not recipe.augmented_load:
        return lambda batch: _touch(batch.images)
    content = batches.reader.content
    augmented = Augmentation(recipe, Task.of(content, recipe), job.seed, device)
    if batches.reader.store.augments:
        return lambda batch: _touch(augmented.normalised(batch.images))
    return lambda batch: _touch(augmented(batch, 0))


def _touch(images: torch.Tensor) -> int:
    """Read a byte of every page: a batch that came through shared memory has not arrived before."""
    images.permute(0, 2, 3, 1).reshape(-1)[::4096].sum()
    return len(images)


def _compute(batches: Loader, job: Job, recipe: Protocol, device: torch.device, tell: Tell) -> dict[str, Any]:
    trainer, epochs = _trainer(batches, job, recipe, device), []
    batches.set_epoch(0)
    steps = len(batches)
    held = [trainer.place(batch) for batch in _some(batches, steps)]
    for number in range(recipe.epochs):
        repeated = itertools.chain(itertools.islice(itertools.cycle(held[:-1] or held), steps - 1), held[-1:])
        epochs.append(_epoch(trainer.train_epoch(repeated, number, Clock.of(device))))
        tell(number, recipe.epochs, epochs[-1])
    return {"epochs": tuple(epochs), "losses": trainer.losses}


def _some(batches: Iterable[Batch], steps: int) -> Iterator[Batch]:
    """The first batches of an epoch and its last, which may be smaller."""
    for number, batch in enumerate(batches):
        if number < COMPUTE_BATCHES - 1 or number == steps - 1:
            yield batch


def _epoch(times: EpochTimes, passes: int = 1) -> Epoch:
    return Epoch(
        total=times.total,
        wait=times.wait,
        copy_=times.copy,
        step=times.step,
        images=times.images,
        first_batch=times.first_batch,
        passes=passes,
    )


def _pss_bytes() -> int:
    """Memory of this process and its children, shared pages divided among their users."""
    own = psutil.Process()
    return sum(process.memory_full_info().pss for process in [own, *own.children(recursive=True)])


def _cpu_seconds() -> float:
    """Of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _bytes_read() -> int:
    """From the disk, by this process and its ended children."""
    return int(psutil.Process().io_counters().read_bytes)
