"""Records made up for tests: a run folder without a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.experiment import Cell
from bench.record import Epoch, Record

CELL_FIELDS = frozenset(Cell.model_fields)

MakeRecord = Callable[..., Record]
MakeFolder = Callable[..., Path]


def epoch(total: float, wait: float = 0.0, copy: float = 0.0, images: int = 512, passes: int = 1) -> Epoch:
    return Epoch(
        total=total,
        wait=wait,
        copy_=copy,
        step=total - wait - copy,
        images=images * passes,
        first_batch=total / 10,
        passes=passes,
    )


def made_up(backend: str = "mmap", seconds: Sequence[float] = (1.5, 1.0, 1.0), wait: float = 0.1, **fields: Any) -> Record:
    """A record of one run: ``seconds`` are its epochs, the first included; other fields are a cell's or a record's."""
    cell = {"dataset": "cifar10", "model": "resnet8", "protocol": "quick", "mode": "train", "limit": 512}
    cell |= {key: fields.pop(key) for key in list(fields) if key in CELL_FIELDS and key != "dataset"}
    cell["dataset"] = fields.get("dataset", "cifar10")
    if cell["mode"] == "load":
        cell["model"] = None
    number = fields.get("round", 0)
    ok = fields.get("status", "ok") == "ok"
    trained = (
        {"losses": (2.3, 2.1, 1.9 + number), "accuracy": 0.38 + number / 100, "macro_f1": 0.37}
        if cell["mode"] == "train"
        else {}
    )
    measured = {
        "epochs": tuple(epoch(total, wait=wait) for total in seconds),
        "train_images": 512,
        "val_images": 10_000,
        "store_bytes": 147 * 2**20,
        "pack_seconds": 3.5,
        "path_taken": "mapped",
        "order_sha256": f"order-{number}",
        "pixel_sha256": f"pixels-{number}",
        "content_sha256": "content",
        "threads": 2,
        **trained,
    }
    base = {
        "cell": Cell(backend=backend, **cell),
        "round": number,
        "position": 0,
        "seed": number,
        "status": "ok",
        "dataset": cell["dataset"],
        "started": "2026-11-23T10:00:00+00:00",
        "seconds": 10.0,
    }
    return Record(**(base | (measured if ok else {}) | fields))


def written(folder: Path, records: Sequence[Record], environment: dict[str, object] | None = None, toml: str = "") -> Path:
    """A run folder of these records."""
    folder.mkdir(exist_ok=True)
    for one in records:
        record.append(folder, one)
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    if toml:
        (folder / "experiment.toml").write_text(toml)
    return folder


@pytest.fixture
def make() -> MakeRecord:
    return made_up


@pytest.fixture
def folder_of() -> MakeFolder:
    return written
