"""``loadstone recommend``: from a run's records to which storage format to use."""

from __future__ import annotations

from pathlib import Path

from bench import record
from bench.reporting import table, verdict, wording
from bench.reporting.recommend import Aim
from bench.reporting.report import environment, planned_of
from bench.reporting.summary import summary
from bench.running.progress import plain_console


def show(folder: Path, aim: Aim) -> None:
    """Print a recommendation for every group of rows that has a table.

    Raises:
        DataError: no records. ExperimentInvalid: ``experiment.toml`` is none.
    """
    console = plain_console()
    rows = summary(record.read(folder), planned_of(folder))
    place = wording.setting(environment(folder))
    for group in table.shown(rows):
        conditions = " · ".join(wording.conditions(group, place))
        console.print(f"{wording.title(group[0])} · protocol {group[0].cell.protocol} · {conditions}")
        for line in verdict.recommendation(group, aim):
            console.print(f"  {line}")
