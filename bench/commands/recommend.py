"""``loadstone recommend``: from a run's records to which storage format to use."""

from __future__ import annotations

from pathlib import Path

from bench import record
from bench.reporting import table, verdict, wording
from bench.reporting.recommend import Aim
from bench.reporting.report import environment, planned_of
from bench.reporting.summary import summary
from bench.running.progress import plain_console


def show(folder: Path, aim: Aim, train_speed: float | None = None) -> None:
    """Print a recommendation for every group of rows that has a table; for a stated speed of training, for every data set.

    Raises:
        DataError: no records. ExperimentInvalid: ``experiment.toml`` is none.
    """
    console = plain_console()
    rows = summary(record.read(folder), planned_of(folder))
    place = wording.setting(environment(folder))
    if train_speed is not None:
        names = wording.ways(rows)
        for dataset in dict.fromkeys(row.dataset for row in rows):
            console.print(f"{dataset} · {' · '.join(wording.conditions(rows, place))}")
            for line in verdict.for_training([row for row in rows if row.dataset == dataset], names, train_speed):
                console.print(f"  {line}")
        return
    for group in table.shown(rows):
        conditions = " · ".join(wording.conditions(group, place))
        console.print(f"{wording.title(group[0])} · protocol {group[0].cell.protocol} · {conditions}")
        for line in verdict.recommendation(group, aim):
            console.print(f"  {line}")
