"""Which storage format to use, under a stated aim: the computing. ``bench.reporting.verdict`` words it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench import stats
from bench.reporting.loading import COST, ahead, training_speed
from bench.reporting.summary import Row
from bench.reporting.ties import ties
from bench.runs import mean
from bench.stats import Interval

Aim = Literal["speed", "disk", "memory"]

SAME_SIZE = 0.01  # sizes nearer than that are a file system's rounding


@dataclass(frozen=True)
class Advice:
    """What a group of rows says under an aim.

    Attributes:
        chosen: the row to use; None where no storage format did equal work.
        equals: rows that are as good under the aim.
        next_best: the best row that is not. loss: what it needs over the chosen one: a ratio of loading times, bytes on disk
            or bytes of memory; of sizes without an interval.
        workers: the fewest that are not told apart from the best number, of those the chosen format was run with; None
            where it was run with one number only, or too few rounds tell.
    """

    aim: Aim
    chosen: Row | None
    equals: tuple[Row, ...] = ()
    next_best: Row | None = None
    loss: Interval | None = None
    workers: int | None = None


def candidates(rows: Sequence[Row]) -> list[Row]:
    """Storage formats that ran and did the work asked for, the fastest first, as in the table."""
    return [row for row in rows if row.epoch is not None and not row.bound and row.equal_work]


def most_cost(rows: Sequence[Row]) -> float | None:
    """The most that a storage format of a training costs of an epoch, as a fraction; None where none is known."""
    return max((row.held.cost.mean for row in candidates(rows) if row.held.cost), default=None)


def advise(rows: Sequence[Row], aim: Aim) -> Advice:
    """What to use of the rows of one group, in the table's order."""
    formats = candidates(rows)
    ranked = {"speed": _by_speed, "disk": _by_disk, "memory": _by_memory}[aim](formats)
    if not ranked:
        return Advice(aim, None)
    best, equals = ranked[0]
    # Of equals the one that loads fastest by itself, which leaves room for a faster model; for other aims the faster one.
    chosen = (
        max([best, *equals], key=lambda row: row.load_images_per_second or 0.0)
        if aim == "speed"
        else min([best, *equals], key=lambda row: mean(row.judged.values()) or 0.0)
    )
    next_best = next((row for row, _ in ranked[1:] if row not in equals), None)
    return Advice(
        aim=aim,
        chosen=chosen,
        equals=tuple(row for row in (best, *equals) if row is not chosen),
        next_best=next_best,
        loss=None if next_best is None else _loss(aim, next_best, chosen),
        workers=_workers_enough(chosen, formats),
    )


_Ranked = list[tuple[Row, list[Row]]]
"""Rows, the best first, each with those that are its equals."""


def _by_speed(formats: Sequence[Row]) -> _Ranked:
    return [(row, [other for other in formats if other.tied_best] if place == 0 else []) for place, row in enumerate(formats)]


def _by_disk(formats: Sequence[Row]) -> _Ranked:
    ordered = sorted((row for row in formats if row.store_bytes is not None), key=_bytes)
    return [
        (row, [other for other in ordered if other is not row and _bytes(other) <= _bytes(row) * (1 + SAME_SIZE)])
        for row in ordered
    ]


def _by_memory(formats: Sequence[Row]) -> _Ranked:
    ordered = sorted((row for row in formats if row.pss_bytes), key=lambda row: mean(row.pss_bytes.values()) or 0.0)
    tied = ties([row.pss_bytes for row in ordered])
    return [(row, [ordered[b] for (a, b), same in tied.items() if a == place and same]) for place, row in enumerate(ordered)]


def _bytes(row: Row) -> int:
    return row.store_bytes or 0


def _loss(aim: Aim, row: Row, chosen: Row) -> Interval | None:
    if aim == "disk":
        return Interval(_bytes(row) / _bytes(chosen), None, None, 1) if _bytes(chosen) else None
    return _ratio(row.judged, chosen.judged) if aim == "speed" else _ratio(row.pss_bytes, chosen.pss_bytes)


def _ratio(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    pairs = stats.paired(values, baseline)
    return stats.ratio_interval(*pairs) if pairs[0] else None


def _alike(chosen: Row, formats: Sequence[Row]) -> list[Row]:
    """Rows that differ from the chosen one in the number of workers alone, itself included."""
    return [
        row for row in formats if row.cell.model_copy(update={"workers": 0}) == chosen.cell.model_copy(update={"workers": 0})
    ]


def _workers_enough(chosen: Row, formats: Sequence[Row]) -> int | None:
    alike = _alike(chosen, formats)
    if len(alike) < 2:
        return None
    tied = ties([row.judged for row in alike])  # the first is the fastest
    if any(tied[0, place] is None for place in range(1, len(alike))):
        return None
    return min(row.cell.workers for place, row in enumerate(alike) if place == 0 or tied[0, place])


@dataclass(frozen=True)
class Fed:
    """Whether a way of loading feeds a training of a stated speed on a GPU.

    Attributes:
        row: that loads in this way. cost: the part of an epoch that it costs, as a fraction.
    """

    row: Row
    cost: float

    @property
    def workers(self) -> int:
        """Worker processes, or threads; by rule these are as many as there are processors."""
        threads = self.row.threads or 1 if self.row.cell.engine == "threads" else 0
        return self.row.cell.workers or threads

    @property
    def enough(self) -> bool:
        """Whether it costs under 5 %."""
        return self.cost < COST


def feeds(rows: Sequence[Row], train_speed: float) -> list[Fed]:
    """Every way of loading that was measured by itself, for a training on a GPU that is not here, the cheapest first.

    What reads ahead, by threads or by worker processes, reads beside it on processors of its own.
    """
    loaded = {row.cell.loading: row for row in rows if row.load_images_per_second and not row.bound and row.equal_work}
    found = []
    for row in loaded.values():
        speed = training_speed(train_speed, row.load_images_per_second or 1.0, overlapped=ahead(row.cell))
        found.append(Fed(row, 1 - speed / train_speed))
    return sorted(found, key=lambda each: (each.cost, -(each.row.load_images_per_second or 0.0)))


def fewest_workers(found: Sequence[Fed]) -> list[Fed]:
    """Of each format that feeds the training, the way with the fewest workers or threads; in the order of ``found``."""
    enough: dict[str, Fed] = {}
    for each in found:
        kept = enough.get(each.row.cell.backend)
        if each.enough and (kept is None or (each.workers, each.cost) < (kept.workers, kept.cost)):
            enough[each.row.cell.backend] = each
    return list(enough.values())
