"""What a huge store costs to open and to read in more workers: a sparse ``mmap`` store, measured in processes of their own.

``python -m bench.scale 100000000 docs/scale`` makes the committed record, docs/scale.json, and its table, docs/scale.md.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch

from bench import machine
from bench.running import usage
from loaders import columns
from loaders.backends.mmap import data_file
from loaders.loading import Loader, loader
from loaders.manifest import Content, Manifest, SplitManifest

SHAPE = (32, 32, 3)
BATCH = 256
IN_ORDER, SHUFFLED = 8, 8
WORKERS = (1, 2, 3)
SMALL = 1000


def sparse_store(root: Path, records: int) -> Path:
    """An ``mmap`` store of that many black pictures, all of class 0, that takes next to no room on the disk."""
    root.mkdir()
    content = Content(
        dataset="sparse",
        fingerprint="sparse",
        verification="synthetic",
        codec="raw",
        shape=SHAPE,
        channels=SHAPE[2],
        classes=("black",),
        counts={"train": records},
        mean=(0.0,) * SHAPE[2],
        std=(1.0,) * SHAPE[2],
    )
    columns.Column(root, "train", "labels", records).close()
    labels = columns.path(root, "train", "labels")
    os.truncate(labels, labels.stat().st_size + 8 * records)
    size = records * (content.record_bytes or 0)
    data_file(root, "train").touch()
    os.truncate(data_file(root, "train"), size)
    split = SplitManifest(count=records, payload_bytes=size, content_sha256="")
    Manifest(backend="mmap", content=content, splits={"train": split}, store_bytes=0, pack_seconds=0.0).write(root)
    return root


def opening(root: Path) -> dict[str, float]:
    """Seconds and growth of this process's memory (RSS, bytes): opening, batches in order, then shuffled ones."""
    own = psutil.Process()
    gc.collect()
    found, before = {}, own.memory_info().rss
    begin = time.perf_counter()
    with loader(root, batch_size=BATCH, shuffle=False) as batches:
        first = next(iter(batches))
        found["first_batch_seconds"] = time.perf_counter() - begin
        found["opened_bytes"] = own.memory_info().rss - before
        del first
        _read(batches, IN_ORDER)
        found["in_order_bytes"] = own.memory_info().rss - before
    with loader(root, batch_size=BATCH) as batches:
        _read(batches, SHUFFLED)
        found["shuffled_bytes"] = own.memory_info().rss - before
    return found


def workers(root: Path, engine: Any, number: int) -> dict[str, float]:
    """PSS in bytes of this process and its workers in mid-epoch, shared pages divided among their users."""
    with loader(root, batch_size=BATCH, engine=engine, workers=number) as batches:
        came = iter(batches)
        for _ in islice(came, SHUFFLED):
            pass
        return {"pss_bytes": usage.pss_bytes(os.getpid())}


def _read(batches: Loader, number: int) -> None:
    for _ in islice(iter(batches), number):
        pass


def apart(measure: Callable[..., dict[str, float]], small: Path, *args: Any) -> dict[str, float]:
    """Measure in a process of its own, which has read a small store before: what only the first use costs is not counted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(opening, small).result()
        return process.submit(measure, *args).result()


def measure(folder: Path, records: int) -> dict[str, Any]:
    """All figures of a store of ``records``, and of a small one for comparison; bytes and seconds."""
    small, huge = sparse_store(folder / "small", SMALL), sparse_store(folder / "huge", records)
    found: dict[str, Any] = {"records": records, "data_bytes": data_file(huge, "train").stat().st_size}
    found["small"], found["huge"] = apart(opening, small, small), apart(opening, small, huge)
    for engine in ("torch", "threads"):
        pss = [apart(workers, small, huge, engine, number)["pss_bytes"] for number in WORKERS]
        found[f"{engine}_pss_bytes"] = pss
        found[f"{engine}_pss_per_further_worker_bytes"] = (pss[-1] - pss[0]) / (WORKERS[-1] - WORKERS[0])
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [
        (
            "first batch, from opening on, ms",
            *(f"{1000 * found[size]['first_batch_seconds']:.1f}" for size in ("small", "huge")),
        ),
        *(
            (f"memory grown by, MiB: {what}", *(_mebibytes(found[size][key]) for size in ("small", "huge")))
            for key, what in (
                ("opened_bytes", "opening, and the first batch"),
                ("in_order_bytes", f"and {IN_ORDER} batches in order"),
                ("shuffled_bytes", f"and {SHUFFLED} shuffled batches"),
            )
        ),
        *(
            (f"PSS of each further {what}, MiB", "", _mebibytes(found[f"{engine}_pss_per_further_worker_bytes"]))
            for engine, what in (("torch", "worker process"), ("threads", "thread"))
        ),
    ]
    head = ["", f"{SMALL:,} records", f"{found['records']:,} records"]
    lines = [head, ["---", "---:", "---:"], *rows]
    where = found["environment"]
    about = f"{where['machine']}, torch {where['torch']}; batches of {BATCH}, made by `python -m bench.scale`."
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# A store of {found['records']:,} records\n\n{about}\n\n{body}\n"


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        about = machine.environment(Path(scratch), threads=torch.get_num_threads(), device="cpu")
        made = {**measure(Path(scratch), int(sys.argv[1])), "environment": about}
    Path(sys.argv[2]).with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    Path(sys.argv[2]).with_suffix(".md").write_text(table(made), encoding="utf-8")
