"""What a calibration's runs say: how often chance is taken for a difference, how often a difference is found, what the
harness costs. Reads and writes a calibration's folder; ``bench.calibrating.calibrate`` runs what fills it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic

from bench.reporting.report import environment, write
from datasets.errors import DataError
from loaders.manifest import Frozen

RUNS, HARNESS, REPORT = "runs.csv", "harness.csv", "calibration.md"
PLANTED = (0.02, 0.05)
Line = TypeVar("Line", bound=Frozen)


class Measured(Frozen):
    """One run of a small experiment: a line of ``runs.csv``.

    Attributes:
        cell: its name: 1a and 1b are a pair of equals. planted: the fraction by which its reads were slowed.
        loading: seconds an image that training was held up, which is what tables compare. wait_share: of an epoch.
        timed_seconds: the shortest epoch.
        disturbed: as its record has it.
    """

    experiment: int
    round: int
    position: int
    cell: str
    planted: float
    loading: float
    wait_share: float
    timed_seconds: float
    disturbed: bool


class Harness(Frozen):
    """One pair of runs of one cell, side by side: a line of ``harness.csv``. Seconds are of an epoch."""

    mode: str
    pair: int
    harness_seconds: float
    plain_seconds: float


@dataclass(frozen=True)
class Calibration:
    """All that a folder holds."""

    environment: dict[str, object]
    runs: tuple[Measured, ...]
    harness: tuple[Harness, ...]


def read(folder: Path) -> Calibration:
    """What ``folder`` holds.

    Raises:
        DataError: it holds no calibration.
    """
    runs = measured(folder)
    if not runs:
        raise DataError(f"{folder} holds no {RUNS} of a calibration; make one with `loadstone calibrate --out {folder}`")
    return Calibration(environment(folder), tuple(runs), tuple(harness(folder)))


def measured(folder: Path) -> list[Measured]:
    """The runs of the experiments that finished."""
    return [_parsed(Measured, row, folder / RUNS) for row in _rows(folder / RUNS)]


def harness(folder: Path) -> list[Harness]:
    """The pairs of runs under the harness and by hand."""
    return [_parsed(Harness, row, folder / HARNESS) for row in _rows(folder / HARNESS)]


def keep(folder: Path, runs: Sequence[Measured]) -> None:
    """Add the runs of an experiment, all or none.

    Raises:
        RoomError: they can't be written.
    """
    write(folder / RUNS, _csv([*measured(folder), *runs], Measured))


def keep_harness(folder: Path, pair: Harness) -> None:
    """Add a pair of runs; likewise."""
    write(folder / HARNESS, _csv([*harness(folder), pair], Harness))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def _parsed(kind: type[Line], row: dict[str, str], path: Path) -> Line:
    try:
        return kind.model_validate(row)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; run the calibration anew") from None


def _csv(rows: Sequence[Frozen], kind: type[Frozen]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(kind.model_fields), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row})
    return file.getvalue().encode()
