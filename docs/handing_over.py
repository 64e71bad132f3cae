"""Where the time of the threads engine goes when all it does is copy: printed as the table of docs/speed.md.

    .venv/bin/python docs/handing_over.py STORE

STORE is an ``mmap`` store of raw pictures of one size, such as stores/cifar10/raw/mmap.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.running.worker import _touch
from loaders.codec import Pixels
from loaders.loading import Loader, loader
from loaders.order import Indices
from loaders.pack import open_store
from train.clock import Clock, time_epoch
from train.transfer import Transfer

BATCH, THREADS, PASSES, ROUNDS, BUFFERS = 256, 2, 6, 15, 16


def gather(pictures: Pixels, order: Indices, threads: int, buffers: int) -> None:
    """``np.take`` of every batch into the next of a thread's buffers; nobody looks at them."""

    def work(share: int) -> None:
        held = np.zeros((buffers, BATCH, pictures.shape[1]), np.uint8)
        for number, start in enumerate(range(share * BATCH, len(order), BATCH * threads)):
            part = order[start : start + BATCH]
            np.take(pictures, part, axis=0, out=held[number % buffers][: len(part)], mode="clip")

    running = [threading.Thread(target=work, args=(share,)) for share in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def consume(batches: Iterable[Any]) -> None:
    """What mode ``load`` does with batches."""
    device = torch.device("cpu")
    time_epoch(batches, Transfer(device), lambda batch: _touch(batch.images), Clock.of(device))


def drop(batches: Iterable[Any]) -> None:
    """Nothing."""
    for _ in batches:
        pass


def ways(store: Path, batches: Loader) -> dict[str, Callable[[], object]]:
    """What is measured, by its name in the table: one pass over the split each."""
    mapped = open_store(store).reader("train").handle.data
    ram, order = np.array(mapped), batches.order(0)
    held = [batch._replace(images=batch.images.clone(memory_format=torch.preserve_format)) for batch in batches]
    return {
        "`np.take` from RAM into one buffer, 1 thread": lambda: gather(ram, order, 1, 1),
        f"the same, {THREADS} threads": lambda: gather(ram, order, THREADS, 1),
        f"the same from the mapping, {THREADS} threads": lambda: gather(mapped, order, THREADS, 1),
        f"the same into {BUFFERS} buffers a thread in turn": lambda: gather(mapped, order, THREADS, BUFFERS),
        f"the engine, {THREADS} threads, its batches dropped": lambda: drop(batches),
        f"the engine, {THREADS} threads, its batches used as `load` does": lambda: consume(batches),
        "batches that are there already, used as `load` does": lambda: consume(held),
    }


def measured(ways: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """(Wall milliseconds, processor milliseconds) of a pass, medians over rounds; every way once a round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            way()  # not counted: threads start, buffers are made
            wall, used = time.perf_counter(), time.process_time()
            for _ in repeat(None, PASSES):
                way()
            found[name].append(((time.perf_counter() - wall) / PASSES * 1e3, (time.process_time() - used) / PASSES * 1e3))
    return {name: tuple(map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    store = parser.parse_args().store
    with loader(store, batch_size=BATCH, engine="threads", workers=THREADS) as batches:
        rows = measured(ways(store, batches))
        head = "| | ms | processor ms | million pictures/s |\n|---|---|---|---|"
        lines = [
            f"| {name} | {wall:.1f} | {used:.1f} | {batches.images / wall / 1e3:.2f} |" for name, (wall, used) in rows.items()
        ]
        sys.stdout.write("\n".join([head, *lines, ""]))
