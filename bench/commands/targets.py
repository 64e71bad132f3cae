"""``loadstone targets``."""

from __future__ import annotations

from pathlib import Path

from bench import record
from bench.reporting import targets_table
from bench.reporting.report import EXPERIMENT, planned_of
from bench.reporting.targets import findings
from bench.running.progress import plain_console
from datasets.errors import UsageError, VerificationFailed

SHORT, NOT_MEASURED = VerificationFailed.exit_status, 1
LOG_WIDTH = 200


def judge(folder: Path) -> int:
    """Print the targets of the run in ``folder``; returns the exit status: 3 where one is short, 1 where one was not measured.

    Raises:
        DataError: no records. ExperimentInvalid: its experiment is none. UsageError: it has no targets.
    """
    records = record.read(folder)
    planned = planned_of(folder)
    if planned is None or not planned.targets:
        raise UsageError(f"the experiment in {folder} has no targets; its {EXPERIMENT} would name them under [[targets]]")
    found = findings(records, planned)
    console = plain_console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(targets_table.to_terminal(found), soft_wrap=False)
    met = {finding.met for finding in found}
    return SHORT if False in met else NOT_MEASURED if None in met else 0
