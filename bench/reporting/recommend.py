"""Which storage format to use, under a stated aim: the computing. ``bench.reporting.verdict`` words it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bench import stats
from bench.reporting.summary import Row
from bench.reporting.ties import ties
from bench.runs import mean
from bench.stats import Interval

Aim = Literal["speed", "disk", "memory"]
AIMS: tuple[Aim, ...] = get_args(Aim)

COMPUTE_BOUND = 0.05  # of an epoch: a loading cost that lies below it, interval and all, is not what limits training
SAME_SIZE = 0.01  # sizes nearer than that are a file system's rounding
_FEW_RUNS = 2


@dataclass(frozen=True)
class Advice:
    """What a group of rows says under an aim.

    Attributes:
        chosen: the row to use; None where no storage format did equal work.
        equals: rows that are as good under the aim.
        next_best: the best row that is not. loss: what it needs over the chosen one: a ratio of epoch times, bytes on
            disk or bytes of memory; of sizes without an interval.
        slower: the chosen row's epoch time over the fastest format's, where it is another row.
        any_will_do: training is limited by the model whichever format feeds it.
        workers: the fewest that are not told apart from the best number, of those the chosen format was run with; None
            where it was run with one number only, or too few rounds tell.
        few: there are too few runs for advice. noisy: runs spread over a tenth of their mean.
        rounds_needed: of a new experiment that would tell 5 % apart; None where there were enough.
    """

    aim: Aim
    chosen: Row | None
    equals: tuple[Row, ...] = ()
    next_best: Row | None = None
    loss: Interval | None = None
    slower: Interval | None = None
    any_will_do: bool = False
    workers: int | None = None
    few: bool = False
    noisy: bool = False
    rounds_needed: int | None = None


def candidates(rows: Sequence[Row]) -> list[Row]:
    """Storage formats that ran and did the work asked for, the fastest first, as in the table."""
    return [row for row in rows if row.epoch is not None and not row.bound and row.equal_work]


def advise(rows: Sequence[Row], aim: Aim) -> Advice:
    """What to use of the rows of one group, in the table's order."""
    formats = candidates(rows)
    ranked = {"speed": _by_speed, "disk": _by_disk, "memory": _by_memory}[aim](formats)
    if not ranked:
        return Advice(aim, None)
    best, equals = ranked[0]
    chosen = _preferred(aim, [best, *equals])
    others = [row for row in (best, *equals) if row is not chosen]
    next_best = next((row for row, _ in ranked[1:] if row not in equals), None)
    fastest = formats[0]
    needed = [row.rounds_needed for row in formats if row.rounds_needed is not None]
    return Advice(
        aim=aim,
        chosen=chosen,
        equals=tuple(others),
        next_best=next_best,
        loss=None if next_best is None else _loss(aim, next_best, chosen),
        slower=None if chosen is fastest else _ratio(chosen.seconds, fastest.seconds),
        any_will_do=all(
            row.cost is not None and row.cost.high is not None and row.cost.high <= COMPUTE_BOUND for row in formats
        ),
        workers=_workers_enough(chosen, formats),
        few=chosen.runs <= _FEW_RUNS,
        noisy=any(doubt.kind == "spread" for row in formats for doubt in row.doubts),
        rounds_needed=max(needed, default=None),
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


def _preferred(aim: Aim, equals: Sequence[Row]) -> Row:
    """Of equals: for speed the one that loads fastest by itself, which leaves room for a faster model; else the fastest."""
    if aim == "speed":
        return max(equals, key=lambda row: row.load_images_per_second or 0.0)
    return min(equals, key=lambda row: row.epoch.mean if row.epoch else 0.0)


def _loss(aim: Aim, row: Row, chosen: Row) -> Interval | None:
    if aim == "disk":
        return Interval(_bytes(row) / _bytes(chosen), None, None, 1) if _bytes(chosen) else None
    return _ratio(row.seconds, chosen.seconds) if aim == "speed" else _ratio(row.pss_bytes, chosen.pss_bytes)


def _ratio(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    pairs = stats.paired(values, baseline)
    return stats.ratio_interval(*pairs) if pairs[0] else None


def _workers_enough(chosen: Row, formats: Sequence[Row]) -> int | None:
    """Among rows that differ from the chosen one in the number of workers alone."""
    alike = [
        row for row in formats if row.cell.model_copy(update={"workers": 0}) == chosen.cell.model_copy(update={"workers": 0})
    ]
    if len(alike) < 2:
        return None
    tied = ties([row.seconds for row in alike])  # the first is the fastest
    if any(tied[0, place] is None for place in range(1, len(alike))):
        return None
    return min(row.cell.workers for place, row in enumerate(alike) if place == 0 or tied[0, place])
