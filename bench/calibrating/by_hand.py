"""A run as one would write it by hand, without the harness: what ``loadstone calibrate`` weighs the harness against.

The loops are the same, over the same loader, in a process started in the same way. There is no mark between the parts of a
step, no telling, no digest, no watch over memory: two readings of the clock an epoch.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.experiment import Cell
from bench.running import pinning, worker
from loaders.loading import Loader, loader
from train.loop import Task, Trainer, prepare_torch
from train.protocol import protocol

Loop = Callable[[Loader, int], None]
"""Goes through the loader that many times."""


@dataclass(frozen=True)
class Plain:
    """What is run by hand: a ``load`` or ``train`` cell, on the CPU."""

    cell: Cell
    root: Path
    seed: int
    threads: int


def main(what: Plain, pipe: Connection) -> None:
    """Run it in this process, and send its seconds of an epoch: the mean of all but the first."""
    os.setsid()
    pipe.send(run(what))
    pipe.close()


def run(what: Plain) -> float:
    """Seconds of an epoch, after the same warming up as in a run under the harness."""
    prepare_torch(what.threads, torch.device("cpu"))
    recipe, cell = protocol(what.cell.protocol), what.cell
    with loader(
        what.root, batch_size=recipe.batch_size, seed=what.seed, engine=cell.engine, workers=cell.workers, limit=cell.limit
    ) as batches:
        pinning.pin(what.threads)  # as a run under the harness does
        loop = _train(batches, what) if cell.mode == "train" else _load
        _seconds(loop, batches, 1)
        passes = 1
        if cell.mode == "load":
            passes = max(1, math.ceil(worker.LOAD_SECONDS / _seconds(loop, batches, 1)))
        found = [_seconds(loop, batches, passes) for _ in range(recipe.measured_epochs)]
    return sum(found) / len(found)


def _seconds(loop: Loop, batches: Loader, passes: int) -> float:
    started = time.perf_counter()
    loop(batches, passes)
    return (time.perf_counter() - started) / passes


def _load(batches: Loader, passes: int) -> None:
    for _ in range(passes):
        for images, _labels, _indices in batches:
            images.permute(0, 2, 3, 1).reshape(-1)[::4096].sum()


def _train(batches: Loader, what: Plain) -> Loop:
    assert what.cell.model is not None
    recipe = protocol(what.cell.protocol)
    task = Task.of(batches.reader.content, recipe)
    trainer = Trainer(what.cell.model, recipe, task, len(batches), what.seed, torch.device("cpu"))

    def loop(batches: Loader, _: int) -> None:
        epoch = batches.epoch
        for batch in batches:
            trainer.step(trainer.place(batch), epoch)

    return loop
