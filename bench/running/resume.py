"""Going on with an experiment that was cut short: what differs from then, and what is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import record
from bench.experiment import Cell, Experiment
from bench.record import RUNS, Record
from bench.reporting import report
from bench.reporting.report import ENVIRONMENT, EXPERIMENT, planned_of
from bench.running.prepare import NotReady, Ready
from datasets.errors import DataError, UsageError

_SAME = ("machine", "kernel", "python", "store_filesystem", "threads", "device", "versions")


def planned(folder: Path) -> Experiment:
    """The experiment of a run folder.

    Raises:
        DataError: the folder holds none. ExperimentInvalid: its file is damaged.
    """
    if (found := planned_of(folder)) is None:
        raise DataError(f"{folder} holds no {EXPERIMENT}; name a folder that `loadstone run` wrote")
    return found


def earlier(folder: Path) -> list[Record]:
    """The records of a run folder; none where it was killed before the first."""
    return record.read(folder) if (folder / RUNS).exists() else []


def environment(folder: Path) -> dict[str, Any]:
    """What the folder says of the machine of then.

    Raises:
        DataError: it says nothing.
    """
    if not (found := report.environment(folder)):
        raise DataError(f"{folder} holds no {ENVIRONMENT}; run the experiment anew")
    return found


def done(records: Iterable[Record]) -> set[tuple[Cell, int]]:
    """The (cell, round) pairs that need no run: those that ended well."""
    return {(one.cell, one.round) for one in records if one.status == "ok"}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the machine and its software is not as it was, in words."""
    return [words for key in _SAME for words in _difference(key, then.get(key), now.get(key))]


def _difference(key: str, then: Any, now: Any) -> Iterable[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for part in sorted({*then, *now}):
            yield from _difference(part, then.get(part), now.get(part))
    elif then != now:
        yield f"{key} was {then}, is {now}"


def other_content(records: Sequence[Record], cells: Iterable[Ready | NotReady]) -> list[str]:
    """Stores that no longer hold what the records were measured on, in words."""
    then = {one.cell: one.content_sha256 for one in records if one.content_sha256}
    now = {cell.cell: cell.manifest.splits["train"].content_sha256 for cell in cells if isinstance(cell, Ready)}
    stores = {f"{cell.dataset} as {cell.backend_name}" for cell, content in now.items() if then.get(cell, content) != content}
    return [f"{store} holds other pictures" for store in sorted(stores)]


def refuse(folder: Path, found: Sequence[str]) -> None:
    """Refuse to mix what differs.

    Raises:
        UsageError: something does; says what, and how to go on all the same.
    """
    if found:
        what = "; ".join(found)
        raise UsageError(
            f"{folder} can't be resumed: {what}; run it anew, or say --despite-differences (the table will say so)"
        )
