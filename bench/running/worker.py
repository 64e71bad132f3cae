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
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import shuffle
from bench.experiment import Cell
from bench.record import Epoch
from bench.running import limits, pinning, usage
from bench.running.cache import Drop, Dropped
from bench.running.feeding import Feeding
from bench.running.held import ALONE_STEPS, Held
from bench.running.planted import PlantedStore
from bench.running.usage import Meter
from datasets.errors import LoadstoneError
from loaders import order
from loaders.feed import AUGMENTED, FeedStore
from loaders.loading import Loader, loader
from loaders.order import Draws
from loaders.pack import open_store
from loaders.store import Store
from train.clock import Clock, EpochTimes, time_epoch
from train.loop import Augmentation, Task, Trainer, augment, prepare_torch
from train.protocol import Protocol, protocol
from train.transfer import PlacedBatch, Transfer

# A pass over small data takes less than timers and schedulers are good for: passes are repeated until they fill this.
LOAD_SECONDS = 0.25
# On a GPU the passes before the first that is timed take so long: its clocks, and its bus, wake up in that time.
GPU_WARM_UP_SECONDS = 0.3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Tell = Callable[[int, int, Epoch], None]
"""Told of each epoch: its number, how many there will be, its times."""


@dataclass(frozen=True)
class Job:
    """What a run's process is given.

    Attributes:
        root: the store's folder. server: the database's DSN, where the store lives in one.
        seed: of order, draws and weights. threads: of every pool. device: ``cpu`` or ``cuda``.
        server_pid: of the embedded database server that serves the store, or None.
    """

    cell: Cell
    root: Path
    server: str | None
    seed: int
    threads: int
    device: str
    server_pid: int | None = None


def main(job: Job, pipe: Connection) -> None:
    """Run a job, and send what comes of it.

    ``("epoch", number, epochs, Epoch)`` for each epoch, then ``("done", fields)`` or ``("failed", error, exit status)``.
    A cold run sends ``("drop",)`` before each epoch and waits for a ``Dropped``: the runner can stop a server, a run can't.
    """

    def drop() -> Dropped:
        pipe.send(("drop",))
        dropped: Dropped = pipe.recv()
        return dropped

    os.setsid()  # one group for the run and its workers, which the runner can end as a whole
    _die_with_fork_server()
    threading.Thread(target=_die_with_runner, daemon=True).start()
    try:
        fields = run(job, lambda *news: pipe.send(("epoch", *news)), drop)
    except LoadstoneError as error:
        pipe.send(("failed", str(error), error.exit_status))
    except Exception as error:  # whatever it was, the record must say it
        # PyTorch raises from its handler whenever a worker has died: again, and from the very lines below.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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


def run(job: Job, tell: Tell, drop: Drop | None = None) -> dict[str, Any]:
    """Run a job in this process; returns the fields of its record that the run knows.

    Args:
        job: what is run.
        tell: told of each epoch.
        drop: drops the store's pages; needed where the cell is cold.
    """
    device = torch.device(job.device)
    prepare_torch(job.threads, device)
    cell, recipe = job.cell, protocol(job.cell.protocol)
    store = open_store(job.root, path=cell.path, server=job.server)
    if cell.planted:
        store = PlantedStore(store, cell.planted)
    found: dict[str, Any] = {"threads": job.threads, "device": job.device}
    meter = Meter(os.getpid(), job.server_pid)
    with Feeding(lambda: _loader(store, cell, recipe, job), meter, drop if cell.cache == "cold" else None) as feeding:
        found["thread_pools"] = pinning.pin(job.threads)  # now that the store's libraries are loaded
        found |= _identity(feeding.loader)
        mode = {"train": _train, "load": _load, "compute": _compute, "limit": _limit}[cell.mode]
        measured = mode(feeding, job, recipe, device, tell)
        found |= {"path_taken": feeding.path_taken, "not_cold": feeding.not_cold} | measured
        spent = meter.read()  # workers are still there
        found |= {"train_images": feeding.loader.images, "pss_bytes": usage.pss_bytes(os.getpid())}
    return found | {"cpu_seconds": spent.cpu_seconds, "bytes_read": spent.bytes_read}


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
        augment=augment(recipe, Task.of(store.content, recipe)) if store.augments else None,
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
    found: dict[str, Any] = {"order_sha256": order.digest(indices), "pixel_sha256": digest.hexdigest()}
    if batches.reader.store.augments:
        found["differences"] = {"pixels": AUGMENTED}
    return found


def _feed_identity(batches: Loader, store: FeedStore) -> dict[str, Any]:
    """The same of a feed, by what it delivers; and where that is in another order, how well it is shuffled."""
    digest = hashlib.sha256()
    indices, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    batches.set_epoch(0)
    for batch in batches:
        digest.update(np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).cpu().numpy()).data)
        indices.append(batch.indices)
        labels.append(batch.labels.cpu().numpy())
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


def _train(feeding: Feeding, job: Job, recipe: Protocol, device: torch.device, tell: Tell) -> dict[str, Any]:
    trainer, epochs = _trainer(feeding.loader, job, recipe, device), []
    held = Held(trainer.place, len(feeding.loader))
    for number in range(recipe.epochs):
        feeding.loader.set_epoch(number)
        keep = held.keeping if number == 0 else iter
        times = feeding.epoch(number, lambda batches: _trained(trainer, number, device, keep(batches)))  # noqa: B023
        # In the same process and minute: from one to the next, the same steps take 3 to 20 % more or less.
        alone = trainer.rehearse(held.repeated(ALONE_STEPS), number, Clock.of(device))
        epochs.append(times.model_copy(update={"alone": alone.step, "alone_images": alone.images}))
        tell(number, recipe.epochs, epochs[-1])
    with loader(
        feeding.loader.reader.store,
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


def _trained(trainer: Trainer, number: int, device: torch.device, batches: Iterable[Any]) -> EpochTimes:
    return trainer.train_epoch(batches, number, Clock.of(device))


def _trainer(batches: Loader, job: Job, recipe: Protocol, device: torch.device) -> Trainer:
    assert job.cell.model is not None
    task = Task.of(batches.reader.content, recipe)
    done = batches.reader.store.augments
    return Trainer(job.cell.model, recipe, task, len(batches), job.seed, device, augmented=done)


def _load(feeding: Feeding, job: Job, recipe: Protocol, device: torch.device, tell: Tell) -> dict[str, Any]:
    place, use = Transfer(device), _use(feeding.loader, job, recipe, device)

    def timed(number: int, passes: int) -> Epoch:
        def through(batches: Loader) -> EpochTimes:
            repeated = itertools.chain.from_iterable(itertools.repeat(batches, passes))
            return time_epoch(repeated, place, use, Clock.of(device))

        return feeding.epoch(number, through, passes)

    warm_up = GPU_WARM_UP_SECONDS if device.type == "cuda" else 0.0
    # A second pass over cold pages would be warm.
    return {"epochs": _repeated(timed, recipe.epochs, tell, warm_up=warm_up, once=feeding.cold)}


def _limit(feeding: Feeding, job: Job, recipe: Protocol, _: torch.device, tell: Tell) -> dict[str, Any]:
    kind, threads, batches = job.cell.backend, max(1, job.cell.workers), feeding.loader
    seconds = limits.stopwatch(kind, batches.reader, batches.order(0), batches.shape, recipe.batch_size, threads)

    def timed(_: int, passes: int) -> Epoch:
        took = seconds(passes)
        return Epoch(total=took, wait=0, copy_=0, step=took, images=passes * batches.images, first_batch=0, passes=passes)

    return {"epochs": _repeated(timed, recipe.epochs, tell), "path_taken": limits.PATHS[kind]}


def _repeated(
    timed: Callable[[int, int], Epoch], epochs: int, tell: Tell, *, warm_up: float = 0.0, once: bool = False
) -> tuple[Epoch, ...]:
    """One pass as the first epoch, then epochs of as many passes as can be timed; of one each where ``once``.

    Between, passes that are not counted: one for the number of passes, and more until they took ``warm_up`` seconds.
    """
    found = [timed(0, 1)]
    tell(0, epochs, found[0])
    passes = 1
    if found[0].total < 2 * LOAD_SECONDS and not once:
        # The first pass started workers and touched everything: it tells no number.
        spent = again = timed(0, 1).total
        while spent < warm_up:
            again = timed(0, 1).total
            spent += again
        passes = max(1, math.ceil(LOAD_SECONDS / again))
    for number in range(1, epochs):
        found.append(timed(number, passes))
        tell(number, epochs, found[-1])
    return tuple(found)


def _use(batches: Loader, job: Job, recipe: Protocol, device: torch.device) -> Callable[[PlacedBatch], int]:
    """What ``load`` does with a batch: touch it, or augment it where the protocol says so."""
    if not recipe.augmented_load:
        return lambda batch: _touch(batch.images)
    store = batches.reader.store
    augmented = Augmentation(recipe, Task.of(store.content, recipe), job.seed, device, done=store.augments)
    return lambda batch: _touch(augmented(batch, 0))


def _touch(images: torch.Tensor) -> int:
    """Read a byte of every page: a batch that came through shared memory has not arrived before."""
    # The timed stream has waited for a batch of the GPU, and so for every page of it.
    if not images.is_cuda:
        # By NumPy: an operation on tensors costs as much again, and lets go of the GIL beside loading threads.
        images.permute(0, 2, 3, 1).numpy().reshape(-1)[::4096].sum()
    return len(images)


def _compute(feeding: Feeding, job: Job, recipe: Protocol, device: torch.device, tell: Tell) -> dict[str, Any]:
    trainer, epochs = _trainer(feeding.loader, job, recipe, device), []
    feeding.loader.set_epoch(0)
    held = Held(trainer.place, len(feeding.loader))
    for _ in held.keeping(feeding.loader):
        pass
    for number in range(recipe.epochs):
        epochs.append(feeding.epoch(number, lambda _: _trained(trainer, number, device, held.repeated())))  # noqa: B023
        tell(number, recipe.epochs, epochs[-1])
    return {"epochs": tuple(epochs), "losses": trainer.losses}
