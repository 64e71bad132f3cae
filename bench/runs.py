"""Records gathered by cell: what every table and plot starts from."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.experiment import Cell, Experiment
from bench.record import Epoch, Record

PartName = Literal["wait", "copy_", "step"]


@dataclass(frozen=True)
class Runs:
    """The runs of one cell.

    Attributes:
        dataset: as tables show it.
        ok: the run that counts, by round: of several the last one that was not disturbed, else the last.
        lost: the last record of every round that has no such run.
        rounds: how many were asked for.
    """

    cell: Cell
    dataset: str
    ok: Mapping[int, Record]
    lost: Mapping[int, Record]
    rounds: int

    @property
    def seconds(self) -> dict[int, float]:
        """Epoch time by round."""
        found = {number: record.epoch_seconds for number, record in self.ok.items()}
        return {number: value for number, value in found.items() if value is not None}

    def part(self, name: PartName) -> dict[int, float]:
        """Seconds of one part of an epoch by round: of one pass, mean over the measured epochs."""
        found = {
            number: mean(getattr(epoch, name) / epoch.passes for epoch in record.measured) for number, record in self.ok.items()
        }
        return {number: value for number, value in found.items() if value is not None}

    @property
    def images(self) -> float | None:
        """Of one pass, mean over runs."""
        return mean(mean(part.images / part.passes for part in record.measured) for record in self.ok.values())

    @property
    def alone(self) -> dict[int, float]:
        """Seconds an image of the model alone, by round: the mean of what followed each epoch of the run."""
        found = {number: mean(map(_alone, record.epochs)) for number, record in self.ok.items()}
        return {number: value for number, value in found.items() if value is not None}

    @property
    def slowdown(self) -> dict[int, float]:
        """By round, how much longer the model's steps took beside loading than alone, just before and after: a ratio."""
        found = {number: _slowdown(record.epochs) for number, record in self.ok.items()}
        return {number: value for number, value in found.items() if value is not None}

    @property
    def measured(self) -> list[Epoch]:
        """Every measured epoch of every run."""
        return [epoch for record in self.ok.values() for epoch in record.measured]

    @property
    def last(self) -> Record | None:
        """The latest run that counts, for what is the same in every run."""
        return self.ok[max(self.ok)] if self.ok else None


def gather(records: Sequence[Record], experiment: Experiment | None = None) -> list[Runs]:
    """Group records by cell, in the experiment's order where it is known; its cells without a record come along, empty."""
    by_cell: dict[Cell, list[Record]] = {}
    for record in records:
        by_cell.setdefault(record.cell, []).append(record)
    planned = () if experiment is None else experiment.cells
    for cell in planned:
        if not any(_stands_for(found, cell) for found in by_cell):
            by_cell[cell] = []
    rounds = max([record.round + 1 for record in records], default=0) if experiment is None else experiment.rounds
    names = _names(records)
    return [_runs(cell, names, by_cell[cell], rounds) for cell in sorted(by_cell, key=lambda cell: _place(cell, planned))]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is there; None where nothing is."""
    kept = [value for value in values if value is not None]
    return math.fsum(kept) / len(kept) if kept else None


def _alone(epoch: Epoch) -> float | None:
    return epoch.alone / epoch.alone_images if epoch.alone and epoch.alone_images else None


def _slowdown(epochs: Sequence[Epoch]) -> float | None:
    """The median over the measured epochs: another program's burst falls on one of them."""
    ratios = []
    for before, epoch in itertools.pairwise(epochs):
        earlier, later = _alone(before), _alone(epoch)
        if earlier and later and epoch.step > 0:
            ratios.append(epoch.step / epoch.images / math.sqrt(earlier * later))
    return statistics.median(ratios) if ratios else None


def _runs(cell: Cell, names: Mapping[str, str], records: Sequence[Record], rounds: int) -> Runs:
    ok: dict[int, Record] = {}
    for record in records:
        if record.status == "ok" and (not record.disturbed or ok.get(record.round, record).disturbed):
            ok[record.round] = record
    lost = {record.round: record for record in records if record.round not in ok}
    return Runs(cell, names.get(cell.dataset, cell.dataset), dict(sorted(ok.items())), dict(sorted(lost.items())), rounds)


def _names(records: Sequence[Record]) -> dict[str, str]:
    """The name a data set has in tables; a run that failed early may not have known it, so those that ended well decide."""
    names = {record.cell.dataset: record.dataset for record in records}
    return names | {record.cell.dataset: record.dataset for record in records if record.status == "ok"}


def _stands_for(found: Cell, planned: Cell) -> bool:
    """A record may name the codec that the plan left to the data set."""
    return found == planned or (planned.codec is None and found.model_copy(update={"codec": None}) == planned)


def _place(cell: Cell, planned: Sequence[Cell]) -> tuple[int, str]:
    """Where a cell stands among those planned; by its label where the plan does not know it, since rounds are shuffled."""
    place = next((number for number, other in enumerate(planned) if _stands_for(cell, other)), len(planned))
    return place, cell.label
