"""Records to one row a cell: the computing. How rows are worded and drawn is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench import stats
from bench.experiment import Cell, Experiment
from bench.record import Record
from bench.reporting import checks
from bench.reporting.checks import Doubt
from bench.reporting.loading import Loading, ahead, beside, break_even, loading, training_speed
from bench.reporting.ties import rounds_needed, ties
from bench.runs import Runs, gather, mean
from bench.stats import Interval

NOT_REACHED = "not reached"
ENOUGH = 3  # runs without which no row is called the fastest
BOUND = "memory"  # the split in RAM: how fast any format could be, and none itself

Group = tuple[str, str | None, str, int | None, str, str]


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
        held: of ``train``: what training was held up by; see ``bench.reporting.loading``.
        memory_ratio: epoch time over that of ``memory``, paired by round.
        load_images_per_second: of the ``load`` cell that loads in the same way, itself included. overlapped: whether it reads
            beside the model, on other processors.
        best: the fastest storage format of its group that did equal work.
        tied_above, tied_best: not told apart, paired by round and corrected for all pairs of the group, from the next
            faster row and from the best one; None where there are too few rounds to tell.
            Trainings are compared by loading time, passes of loading by their seconds.
        rounds_needed: of a new experiment that would tell a difference of 5 % from that format, where they are tied and
            more rounds than there were would do it; ``stats.MOST_ROUNDS`` stands for more than that.
        seconds, pss_bytes: epoch time, and the most memory of the run's processes that was seen, by round. losses: what tells
            by round whether two rows had the same ones, bit for bit.
        cpu_seconds, bytes_read, gpu_utilisation: of a run's processes, means over runs.
        read_bytes_per_second: from the disk, over the measured epochs. resident: the most of the store's pages, as a
            share, that were in memory when one of these began; both of cold rows. not_cold: why such a row was not cold.
        disturbed: runs that count although the machine was disturbed beside each attempt at them.
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
    held: Loading = field(default_factory=Loading)
    memory_ratio: Interval | None = None
    load_images_per_second: float | None = None
    overlapped: bool = False
    best: bool = False
    tied_above: bool | None = None
    tied_best: bool | None = None
    rounds_needed: int | None = None
    seconds: Mapping[int, float] = field(default_factory=dict)
    pss_bytes: Mapping[int, float] = field(default_factory=dict)
    losses: Mapping[int, int] = field(default_factory=dict)
    cpu_seconds: float | None = None
    bytes_read: float | None = None
    gpu_utilisation: float | None = None
    train_images: int | None = None
    val_images: int | None = None
    store_bytes: int | None = None
    pack_seconds: float | None = None
    path_taken: str = ""
    content_sha256: str = ""
    device: str = ""
    threads: int | None = None
    read_bytes_per_second: float | None = None
    resident: float | None = None
    not_cold: str = ""
    disturbed: int = 0
    differences: tuple[tuple[str, str], ...] = ()
    order_distance: float | None = None
    order_tolerance: float | None = None
    class_mix: float | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def group(self) -> Group:
        """What rows share that can be compared: data set, model, protocol, limit, mode, cache."""
        return (self.dataset, self.cell.model, self.cell.protocol, self.cell.limit, self.cell.mode, self.cell.cache)

    @property
    def bound(self) -> bool:
        """Whether the row is no storage format, but a bound on them."""
        return self.cell.backend_name == BOUND

    @property
    def equal_work(self) -> bool:
        """Whether it did the same work as the rows that it stands beside: what differs by declaration did other work, and so
        did a read of warm pages beside those of cold ones.
        """
        return not self.not_cold and not self.declared and not any(doubt.kind in checks.UNEQUAL for doubt in self.doubts)

    @property
    def declared(self) -> bool:
        """Whether it declares another order or other pixels, and so trains on something else."""
        return any(promise in ("order", "pixels") for promise, _ in self.differences)

    @property
    def judged(self) -> Mapping[int, float]:
        """What rows of a group are ranked and tied by, by round."""
        return self.held.values or self.seconds

    @property
    def break_even(self) -> float | None:
        """The speed of training, images a second by itself, up to which this way of loading costs under 5 % of an epoch."""
        load = self.load_images_per_second
        return None if load is None else break_even(load, overlapped=self.overlapped)

    @property
    def speed_alone(self) -> float | None:
        """Images a second of the model alone."""
        return 1 / self.held.alone.mean if self.held.alone else None

    @property
    def speed(self) -> float | None:
        """Images a second of training: of the epoch that loading time makes."""
        alone, time = self.held.alone, self.held.time
        return 1 / (alone.mean + time.mean) if alone and time else None

    @property
    def predicted(self) -> float | None:
        """The same from the model alone and loading alone."""
        alone, load = self.speed_alone, self.load_images_per_second
        return None if alone is None or load is None else training_speed(alone, load, overlapped=self.overlapped)

    def share(self, seconds: float | None) -> float | None:
        """A part of the epoch, as a fraction of it."""
        return None if seconds is None or self.epoch is None else seconds / self.epoch.mean


def grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that can be compared, in their order."""
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def summary(records: Sequence[Record], experiment: Experiment | None = None) -> list[Row]:
    """One row a cell: groups in the experiment's order, in each the fastest first and what did not run last."""
    runs = gather(records, experiment)
    doubts = checks.unequal_work(runs)
    held = _held(runs)
    rows = [replace(_row(one, runs, doubts.get(one.cell, ())), held=held.get(one.cell, Loading())) for one in runs]
    return [row for group in grouped(rows) for row in _ranked(group)]


def _held(runs: Sequence[Runs]) -> dict[Cell, Loading]:
    """What every row that trained was held up by."""
    groups: dict[Group, list[Runs]] = {}
    for one in runs:
        if one.cell.mode == "train":
            groups.setdefault(_group(one), []).append(one)
    tested = sum(ahead(one.cell) and bool(one.seconds) for group in groups.values() for one in group)
    found: dict[Cell, Loading] = {}
    for group in groups.values():
        found |= loading(group, _compute(group[0], runs), tested)
    return found


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
        seconds=one.seconds,
        losses={number: hash(record.losses) for number, record in one.ok.items() if record.losses},
        pss_bytes={
            number: float(most) for number, record in one.ok.items() if (most := record.peak_pss_bytes or record.pss_bytes)
        },
        cpu_seconds=mean(record.cpu_seconds for record in one.ok.values()),
        bytes_read=mean(record.bytes_read for record in one.ok.values()),
        gpu_utilisation=mean(record.gpu_utilisation for record in one.ok.values()),
        disturbed=sum(record.disturbed for record in one.ok.values()),
        **_cold(one),
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


def _cold(one: Runs) -> dict[str, Any]:
    if one.cell.cache != "cold":
        return {}
    shares = [epoch.resident for epoch in one.measured if epoch.resident is not None]
    read = [(epoch.bytes_read, epoch.total) for epoch in one.measured if epoch.bytes_read is not None]
    seconds = math.fsum(total for _, total in read)
    return {
        "resident": max(shares, default=None),
        "read_bytes_per_second": sum(count for count, _ in read) / seconds if seconds else None,
        "not_cold": next((record.not_cold for record in one.ok.values() if record.not_cold), ""),
    }


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
        accuracy=stats.mean_interval(accuracy) if accuracy else None,
        macro_f1=mean(record.macro_f1 for record in records),
    )
    if not one.seconds:
        return row
    epoch = stats.positive_interval(list(one.seconds.values()))
    images = one.images
    return replace(
        row,
        epoch=epoch,
        wait_seconds=mean(one.part("wait").values()),
        copy_seconds=mean(one.part("copy_").values()),
        step_seconds=mean(one.part("step").values()),
        images_per_second=None if images is None or not epoch.mean else images / epoch.mean,
    )


def _compared(row: Row, one: Runs, every: Sequence[Runs]) -> Row:
    same = [other for other in every if _group(other) == row.group]
    load = one if one.cell.mode == "load" and one.seconds else _load(one, every)
    memory = _memory(one, same) if one.cell.mode in ("train", "load") else None
    return replace(
        row,
        memory_ratio=_ratio(one.seconds, memory.seconds) if memory is not None else None,
        load_images_per_second=None if load is None else _timed(row, load).images_per_second,
        overlapped=beside(one.cell, row.device),
    )


def _group(one: Runs) -> Group:
    return (one.dataset, one.cell.model, one.cell.protocol, one.cell.limit, one.cell.mode, one.cell.cache)


def _compute(one: Runs, every: Sequence[Runs]) -> Runs | None:
    """The model alone, for a ``train`` cell."""
    if one.cell.mode != "train":
        return None
    return next((other for other in every if _group(other)[:5] == (*_group(one)[:4], "compute")), None)


def _ratio(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Of the rounds that both have; None where there are none, or a part took no time at all."""
    pairs = stats.paired(values, baseline)
    return stats.ratio_interval(*pairs) if pairs[0] and min(map(min, pairs)) > 0 else None


def _memory(one: Runs, same: Sequence[Runs]) -> Runs | None:
    """``memory`` read in the same way; where that was not run, the fastest ``memory`` there is."""
    memory = [other for other in same if other.cell.backend_name == BOUND and other.seconds]
    alike = [other for other in memory if other.cell.loading[2:5] == one.cell.loading[2:5]]
    return min(alike or memory, key=lambda other: math.fsum(other.seconds.values()) / len(other.seconds), default=None)


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


def _ranked(every: Sequence[Row]) -> list[Row]:
    """Fastest first, with ties marked; what has no epoch time last."""
    rows = sorted((row for row in every if row.epoch), key=lambda row: mean(row.judged.values()) or 0.0)
    tied = ties([row.judged for row in rows])
    best = next((place for place, row in enumerate(rows) if not row.bound and row.equal_work), None)
    ranked = []
    for place, row in enumerate(rows):
        above = tied.get((place - 1, place))
        level = None if best in (None, place) else tied.get((min(best or 0, place), max(best or 0, place)))
        needed = rounds_needed(row.judged, rows[best].judged, len(tied)) if best is not None and level else None
        needed = needed if needed is not None and needed > row.rounds else None
        ranked.append(replace(row, best=place == best, tied_above=above, tied_best=level, rounds_needed=needed))
    return ranked + [row for row in every if row.epoch is None]
