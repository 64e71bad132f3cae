"""Two run folders, cell by cell. Only what is equal is compared, unless asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import numbers, record, stats
from bench.experiment import Cell
from bench.record import Record
from bench.reporting.report import environment
from bench.runs import Runs, gather
from bench.stats import Interval

# What a machine is, and what ran on it: the keys of environment.json that change how fast a loader is.
_SAME = ("machine", "kernel", "python", "store_filesystem")


@dataclass(frozen=True)
class Compared:
    """One cell that both runs have.

    Attributes:
        a, b: epoch time, in seconds. ratio: b over a; their rounds are not paired, having met different states of a machine.
        different: at 95 %, corrected for all cells compared; None where one has a single run.
    """

    cell: Cell
    a: Interval
    b: Interval
    ratio: Interval
    different: bool | None


@dataclass(frozen=True)
class Folder:
    """A run folder, read."""

    path: Path
    environment: Mapping[str, object]
    runs: Mapping[Cell, Runs]

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Its cells that have an epoch time.

        Raises:
            DataError: no records.
        """
        return cls(path, environment(path), {one.cell: one for one in gather(record.read(path)) if one.seconds})


def compare(a: Folder, b: Folder) -> list[Compared]:
    """The cells that both have, in the order of ``a``'s."""
    cells = [cell for cell in a.runs if cell in b.runs]
    values = [(list(a.runs[cell].seconds.values()), list(b.runs[cell].seconds.values())) for cell in cells]
    p_values = stats.corrected([stats.unpaired_p_value(*pair) for pair in values])
    return [
        Compared(
            cell,
            stats.positive_interval(one),
            stats.positive_interval(other),
            stats.unpaired_ratio(other, one),
            None if p_value is None else p_value < 1 - stats.LEVEL,
        )
        for cell, (one, other), p_value in zip(cells, values, p_values, strict=True)
    ]


def differences(a: Folder, b: Folder) -> list[str]:
    """What should be the same in two runs and is not: ``torch (2.14.1, 2.13.0)``."""
    found = [_differs(key, a.environment.get(key), b.environment.get(key)) for key in _SAME]
    versions, others = (_table(each.environment, "versions") for each in (a, b))
    found += [_differs(name, versions.get(name), others.get(name)) for name in sorted({*versions, *others})]
    protocols, others = (_table(each.environment, "protocols") for each in (a, b))
    # A name that only one of them ran is no difference: its cells are not in both.
    found += ["the protocol " + name for name in sorted(protocols.keys() & others.keys()) if protocols[name] != others[name]]
    found += [_traits(a, b, name, what) for name, what in _TRAITS]
    return [each for each in found if each]


def words(a: Folder, b: Folder, compared: Sequence[Compared], apart: Sequence[str]) -> list[str]:
    """The comparison as lines: a caption, a line a cell, and what was in one only."""
    lines = [f"A: {a.path}", f"B: {b.path}"]
    lines += [f"They differ in: {each}" for each in apart]
    lines.append("Epoch seconds over processes, and B / A, with 95 % intervals; = not distinguishable, corrected for all cells")
    rows = [("cell", "A", "B", "B / A"), *(_row(one) for one in compared)]
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    lines += ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows), ""]
    for folder, other, name in ((a, b, "A"), (b, a, "B")):
        only = [_label(cell) for cell in folder.runs if cell not in other.runs]
        lines += [f"In {name} only: {', '.join(only)}"] if only else []
    return lines


def _row(one: Compared) -> tuple[str, str, str, str]:
    mark = {True: "", False: " =", None: " (one run: no interval)"}[one.different]
    return _label(one.cell), numbers.interval(one.a), numbers.interval(one.b), numbers.interval(one.ratio) + mark


def _label(cell: Cell) -> str:
    return f"{cell.label}, {cell.protocol}" + (f", {cell.limit:,} images" if cell.limit else "")


def _differs(name: str, a: object, b: object) -> str:
    """Empty where they are equal, or one of them is not known."""
    return "" if a == b or a is None or b is None else f"{name} ({a}, {b})"


def _table(environment: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = environment.get(key)
    return found if isinstance(found, dict) else {}


_TRAITS = (
    ("content_sha256", "the data of {}"),
    ("threads", "threads of {}"),
    ("device", "device of {}"),
    ("train_images", "images of {}"),
    ("order_sha256", "the order in which {} was read"),
    ("path_taken", "the code path that served {}"),
)


def _traits(a: Folder, b: Folder, name: str, what: str) -> str:
    """The first cell that was not the same work in both, where both know."""
    for cell in a.runs.keys() & b.runs.keys():
        rounds = a.runs[cell].ok.keys() & b.runs[cell].ok.keys()
        if any(_unlike(a.runs[cell].ok[number], b.runs[cell].ok[number], name) for number in rounds):
            return what.format(_label(cell))
    return ""


def _unlike(a: Record, b: Record, name: str) -> bool:
    one, other = getattr(a, name), getattr(b, name)
    return bool(one and other and one != other)
