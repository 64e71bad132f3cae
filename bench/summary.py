"""Records to one row a cell: the computing. How rows are worded and drawn is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import checks, statistics
from bench.checks import Doubt
from bench.experiment import Cell, Experiment
from bench.record import Record
from bench.runs import Runs, gather, mean
from bench.statistics import Interval

NOT_REACHED = "not reached"
BOUND = "memory"  # the split in RAM: how fast any format could be, and none itself

Group = tuple[str, str | None, str, int | None, str]


@dataclass(frozen=True)
class Row:
    """One cell, over its rounds. Seconds are of one pass; means are over runs; None is what was not measured.

    Attributes:
        dataset: as tables show it.
        status: ``ok`` where any run ended well, else the last run's status, or ``not reached``.
        reason: the last error, or empty.
        runs, rounds: runs that count, and how many were asked for.
        epoch: seconds, measured epochs only. first_epoch_seconds, first_batch_seconds: of the first one.
        wait_seconds, copy_seconds, step_seconds: what ``epoch`` is made of.
        cost: loading cost, 1 - compute / train, paired by round.
        memory_ratio: epoch time over that of ``memory``, paired by round.
        load_images_per_second: of the ``load`` cell that loads in the same way.
        tied_above, tied_best: not told apart, at 95 % and paired by round, from the next faster row and from the fastest
            storage format of the group that did equal work; None where there are too few rounds to tell.
        differences: what the backend declares it can't promise, and why.
        order_distance, order_tolerance, class_mix: of an order that is not the sampler's; see ``bench.shuffle``.
        doubts: what a reader should know before trusting the row.
    """

    dataset: str
    cell: Cell
    status: str
    reason: str
    runs: int
    rounds: int
    epoch: Interval | None = None
    first_epoch_seconds: float | None = None
    first_batch_seconds: float | None = None
    wait_seconds: float | None = None
    copy_seconds: float | None = None
    step_seconds: float | None = None
    images_per_second: float | None = None
    accuracy: Interval | None = None
    macro_f1: float | None = None
    cost: Interval | None = None
    memory_ratio: Interval | None = None
    load_images_per_second: float | None = None
    tied_above: bool | None = None
    tied_best: bool | None = None
    train_images: int | None = None
    val_images: int | None = None
    store_bytes: int | None = None
    pack_seconds: float | None = None
    path_taken: str = ""
    content_sha256: str = ""
    device: str = ""
    threads: int | None = None
    differences: tuple[tuple[str, str], ...] = ()
    order_distance: float | None = None
    order_tolerance: float | None = None
    class_mix: float | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def group(self) -> Group:
        """What rows share that can be compared: data set, model, protocol, limit, mode."""
        return (self.dataset, self.cell.model, self.cell.protocol, self.cell.limit, self.cell.mode)

    @property
    def bound(self) -> bool:
        """Whether the row is no storage format, but a bound on them."""
        return self.cell.backend_name == BOUND

    @property
    def equal_work(self) -> bool:
        """Whether it did the same work as the rows that it stands beside, declared differences included."""
        return not self.declared and not any(doubt.kind in checks.UNEQUAL for doubt in self.doubts)

    @property
    def declared(self) -> bool:
        """Whether it declares another order or other pixels, and so trains on something else."""
        return any(promise in ("order", "pixels") for promise, _ in self.differences)

    @property
    def utilisation(self) -> Interval | None:
        """Compute time / epoch time, after MLPerf Storage's accelerator utilisation."""
        return None if self.cost is None else statistics.complement(self.cost)

    def share(self, seconds: float | None) -> float | None:
        """A part of the epoch, as a fraction of it."""
        return None if seconds is None or self.epoch is None else seconds / self.epoch.mean


def summary(records: Sequence[Record], experiment: Experiment | None = None) -> list[Row]:
    """One row a cell: groups in the experiment's order, in each the fastest first and what did not run last."""
    runs = gather(records, experiment)
    doubts = checks.unequal_work(runs)
    groups: dict[Group, list[tuple[Row, Runs]]] = {}
    for one in runs:
        row = _row(one, runs, doubts.get(one.cell, ()))
        groups.setdefault(row.group, []).append((row, one))
    return [row for pairs in groups.values() for row in _ranked(pairs)]


def _row(one: Runs, every: Sequence[Runs], doubts: Sequence[Doubt]) -> Row:
    status, reason = _outcome(one)
    row = Row(one.dataset, one.cell, status, reason, len(one.ok), one.rounds)
    if one.last is None:
        return row
    row = replace(
        row,
        doubts=(*doubts, *checks.timing(one)),
        train_images=one.last.train_images,
        val_images=one.last.val_images,
        store_bytes=one.last.store_bytes,
        pack_seconds=one.last.pack_seconds,
        path_taken=one.last.path_taken,
        differences=tuple(sorted(one.last.differences.items())),
        content_sha256=one.last.content_sha256,
        device=one.last.device,
        threads=one.last.threads,
    )
    return _compared(_judged(_timed(row, one), one), one, every)


def _judged(row: Row, one: Runs) -> Row:
    judged = [record.order_quality for record in one.ok.values() if record.order_quality is not None]
    return replace(
        row,
        order_distance=mean(quality.distance for quality in judged),
        order_tolerance=mean(quality.tolerance for quality in judged),
        class_mix=mean(quality.class_mix for quality in judged),
    )


def _outcome(one: Runs) -> tuple[str, str]:
    lost = list(one.lost.values())
    reason = lost[-1].error if lost else ""
    if one.ok:
        return "ok", reason
    return (lost[-1].status, reason) if lost else (NOT_REACHED, "the experiment ended before its turn")


def _timed(row: Row, one: Runs) -> Row:
    records = list(one.ok.values())
    first = [record.epochs[0] for record in records if record.epochs]
    accuracy = [record.accuracy for record in records if record.accuracy is not None]
    row = replace(
        row,
        first_epoch_seconds=mean(epoch.seconds for epoch in first),
        first_batch_seconds=mean(epoch.first_batch for epoch in first),
        accuracy=statistics.mean_interval(accuracy) if accuracy else None,
        macro_f1=mean(record.macro_f1 for record in records),
    )
    if not one.seconds:
        return row
    epoch = statistics.mean_interval(list(one.seconds.values()))
    images = mean(mean(part.images / part.passes for part in record.measured) for record in records)
    return replace(
        row,
        epoch=epoch,
        wait_seconds=mean(mean(part.wait / part.passes for part in record.measured) for record in records),
        copy_seconds=mean(mean(part.copy_ / part.passes for part in record.measured) for record in records),
        step_seconds=mean(mean(part.step / part.passes for part in record.measured) for record in records),
        images_per_second=None if images is None or not epoch.mean else images / epoch.mean,
    )


def _compared(row: Row, one: Runs, every: Sequence[Runs]) -> Row:
    same = [other for other in every if _group(other) == row.group]
    load = _load(one, every)
    return replace(
        row,
        cost=_cost(one, every) if one.cell.mode == "train" else None,
        memory_ratio=_memory_ratio(one, same) if one.cell.mode in ("train", "load") else None,
        load_images_per_second=None if load is None else _timed(row, load).images_per_second,
    )


def _group(one: Runs) -> Group:
    return (one.dataset, one.cell.model, one.cell.protocol, one.cell.limit, one.cell.mode)


def _cost(one: Runs, every: Sequence[Runs]) -> Interval | None:
    bound = next((other for other in every if _group(other) == (*_group(one)[:4], "compute")), None)
    if bound is None:
        return None
    compute, train = statistics.paired(bound.seconds, one.seconds)
    return statistics.cost_interval(compute, train) if train else None


def _memory_ratio(one: Runs, same: Sequence[Runs]) -> Interval | None:
    """Against ``memory`` read in the same way; where that was not run, against the fastest ``memory`` there is."""
    memory = [other for other in same if other.cell.backend_name == BOUND and other.seconds]
    alike = [other for other in memory if other.cell.loading[2:5] == one.cell.loading[2:5]]
    fastest = sorted(alike or memory, key=lambda other: math.fsum(other.seconds.values()) / len(other.seconds))
    if not fastest:
        return None
    values, baseline = statistics.paired(one.seconds, fastest[0].seconds)
    return statistics.ratio_interval(values, baseline) if values else None


def _load(one: Runs, every: Sequence[Runs]) -> Runs | None:
    """The ``load`` cell of the same way of loading; of several, the one of the same limit and protocol."""
    if one.cell.mode != "train":
        return None
    found = [
        other
        for other in every
        if other.cell.mode == "load" and other.dataset == one.dataset and other.cell.loading == one.cell.loading and other.ok
    ]
    wanted = (one.cell.limit, one.cell.protocol)
    return max(
        found,
        key=lambda other: (other.cell.limit == wanted[0], other.cell.protocol == wanted[1]),
        default=None,
    )


def _ranked(pairs: Sequence[tuple[Row, Runs]]) -> list[Row]:
    """Fastest first, with ties marked; what has no epoch time last."""
    ran = sorted((pair for pair in pairs if pair[0].epoch), key=lambda pair: pair[0].epoch.mean if pair[0].epoch else 0.0)
    best = next((one for row, one in ran if not row.bound and row.equal_work), None)
    ranked = []
    for place, (row, one) in enumerate(ran):
        above = ran[place - 1][1] if place else None
        ranked.append(replace(row, tied_above=_tied(one, above), tied_best=_tied(one, best)))
    return ranked + [row for row, _ in pairs if row.epoch is None]


def _tied(one: Runs, other: Runs | None) -> bool | None:
    if other is None or other is one:
        return None
    different = statistics.distinguishable(*statistics.paired(one.seconds, other.seconds))
    return None if different is None else not different
