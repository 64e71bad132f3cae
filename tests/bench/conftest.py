"""Records made up for tests: a run folder without a run. And the command line, in this process and in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import record
from bench.experiment import Cell
from bench.record import Epoch, Record

ROOT = Path(__file__).parents[2]
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


STEP = 0.9  # seconds of the model's own work in an epoch, at most


def made_up(
    backend: str = "mmap", seconds: Sequence[float] = (1.5, 1.0, 1.0), wait: float | None = None, **fields: Any
) -> Record:
    """A record of one run: ``seconds`` are its epochs, the first included; other fields are a cell's or a record's.

    An epoch waits ``wait`` seconds, or for what the model's own work leaves of it.
    """
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
        "epochs": tuple(epoch(total, wait=max(0.0, total - STEP) if wait is None else wait) for total in seconds),
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


class Ended(NamedTuple):
    """What a command line ended with."""

    status: int
    out: str
    err: str


def own(name: str) -> bool:
    """Whether an environment variable would change what a command does or how it looks."""
    return name.startswith("LOADSTONE_") or name in ("FORCE_COLOR", "COLUMNS")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For a process of its own: finds this repository's packages, and knows nothing of the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not own(name)}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "no_proxy": "*"}


@pytest.fixture(scope="session")
def start(environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts ``loadstone`` in a process and a session of its own: ``start(folder, *arguments)``.

    Those that start in one folder have one temporary folder, and find what killed ones left there.
    """
    # Not the folder itself: a socket's path holds 107 bytes (unix(7)).
    temporary: dict[Path, str] = {}

    def begin(folder: Path, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.cli", *map(str, arguments)],
            cwd=folder,
            env=environment | {"TMPDIR": temporary.get(folder) or temporary.setdefault(folder, tempfile.mkdtemp())},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return begin


@pytest.fixture(scope="session")
def ended(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Ended]:
    """Runs ``loadstone`` in a process of its own to its end."""

    def run(folder: Path, *arguments: object) -> Ended:
        with start(folder, *arguments) as process:
            out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, err)

    return run


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the user's settings, and without the network."""
    for name in filter(own, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def loadstone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain: None
) -> Callable[..., Ended]:
    """Runs ``loadstone`` in this process and in ``tmp_path``; an error that is not said in one line fails the test."""
    from bench.cli import main
    from bench.running import leftovers

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path)  # the machine's has what other tests kill

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as end:
            main(args=[str(argument) for argument in arguments], prog_name="loadstone")
        found = Ended(int(end.value.code or 0), *capsys.readouterr())
        assert all(line.startswith("loadstone: ") for line in found.err.splitlines()), found.err
        assert len(found.err.splitlines()) <= 1, found.err
        return found

    return run
