"""What a reader should know before trusting a row: noisy or short timing, and work that was not the same for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench import stats
from bench.experiment import Cell
from bench.record import Record
from bench.runs import Runs

SPREAD = 0.10
SHORT_SECONDS = 0.1

Kind = Literal["spread", "short", "order", "pixels", "losses", "content"]


UNEQUAL: frozenset[Kind] = frozenset({"order", "pixels", "losses", "content"})


@dataclass(frozen=True)
class Doubt:
    """One doubt about one row.

    Attributes:
        kind: ``spread`` of the runs over 10 % of their mean; ``short``, a timed unit under 100 ms; or what differs from
            the rows that should have done the same work.
        value: the coefficient of variation; the shortest seconds; the number of rounds that differ.
        against: the rows that it differs from.
    """

    kind: Kind
    value: float
    against: tuple[Cell, ...] = ()


def timing(runs: Runs) -> list[Doubt]:
    """Doubts about a cell's own times."""
    doubts: list[Doubt] = []
    spread = stats.variation(list(runs.seconds.values()))
    if spread is not None and spread > SPREAD:
        doubts.append(Doubt("spread", spread))
    shortest = min((epoch.total for epoch in runs.measured), default=SHORT_SECONDS)
    if shortest < SHORT_SECONDS:
        doubts.append(Doubt("short", shortest))
    return doubts


def unequal_work(runs: Sequence[Runs]) -> dict[Cell, list[Doubt]]:
    """Doubts by cell, where runs of one round that should have done the same work did not.

    The order is the same for all; pixels are the same for all that hold them in the same codec, and then, on a CPU, so are
    the losses. A backend that reads other pictures, or fewer, would look fast. What a backend declares that it can't promise is
    not held against it here; the table shows it.
    """
    found: dict[Cell, list[Doubt]] = {}
    for kind, trait, alike in _TRAITS:
        for peers in _peers(runs, alike):
            for cell, doubt in _outliers(kind, trait, peers):
                found.setdefault(cell, []).append(doubt)
    return found


def _work(one: Runs) -> tuple[Hashable, ...]:
    return (one.dataset, one.cell.model, one.cell.protocol, one.cell.limit, one.cell.mode)


def _decoded_work(one: Runs) -> tuple[Hashable, ...]:
    return (*_work(one), one.cell.codec)


def _store(one: Runs) -> tuple[Hashable, ...]:
    return (one.dataset, one.cell.codec)


def _order(record: Record) -> Hashable:
    """Empty, as below, where nothing is to be compared. An order in which a picture is missing is no order declared."""
    lost = record.order_quality is not None and not record.order_quality.complete
    return "" if "order" in record.differences and not lost else record.order_sha256


def _pixels(record: Record) -> Hashable:
    return "" if {"order", "pixels"} & record.differences.keys() else record.pixel_sha256


def _cpu_losses(record: Record) -> Hashable:
    return record.losses if record.device == "cpu" and not {"order", "pixels"} & record.differences.keys() else ()


_TRAITS: tuple[tuple[Kind, Callable[[Record], Hashable], Callable[[Runs], Hashable]], ...] = (
    ("order", _order, _work),
    ("pixels", _pixels, _decoded_work),
    ("losses", _cpu_losses, _decoded_work),
    ("content", lambda record: record.content_sha256, _store),
)


def _peers(runs: Sequence[Runs], alike: Callable[[Runs], Hashable]) -> Iterable[list[Runs]]:
    """Cells that should have done the same work; ``compute`` repeats batches of its own."""
    groups: dict[Hashable, list[Runs]] = {}
    for one in runs:
        if one.cell.mode != "compute":
            groups.setdefault(alike(one), []).append(one)
    return groups.values()


def _outliers(kind: Kind, trait: Callable[[Record], Hashable], peers: Sequence[Runs]) -> Iterable[tuple[Cell, Doubt]]:
    """Cells that differ from what most have, and in how many rounds."""
    differs: Counter[Cell] = Counter()
    usual: set[Cell] = set()
    for number in sorted({number for one in peers for number in one.ok}):
        values = {one.cell: value for one in peers if number in one.ok and (value := trait(one.ok[number]))}
        if not values:
            continue
        common = Counter(values.values()).most_common(1)[0][0]
        differs.update(cell for cell, value in values.items() if value != common)
        usual.update(cell for cell, value in values.items() if value == common)
    against = tuple(one.cell for one in peers if one.cell in usual)
    return [
        (cell, Doubt(kind, float(rounds), tuple(other for other in against if other != cell)))
        for cell, rounds in differs.items()
    ]
