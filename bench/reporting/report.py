"""Tables and plots of a run folder, re-made from its records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench import experiment, record
from bench.experiment import Experiment
from bench.reporting import latex, summary_csv, table, targets, targets_table, wording
from bench.reporting.headline import headline
from bench.reporting.summary import Row, summary
from bench.reporting.table import Headline, Table
from bench.reporting.verdict import verdict
from datasets.errors import RoomError

ENVIRONMENT = "environment.json"
EXPERIMENT = "experiment.toml"
PLOTS = "plots"


@dataclass(frozen=True)
class Report:
    """What was made of a run folder.

    Attributes:
        rows: one a cell. headline, verdict: the first table and what it says. tables: everything in words.
        paths: the files written, in ``folder``.
        full: what kept a file from being written, or None.
    """

    folder: Path
    rows: tuple[Row, ...]
    headline: Headline
    verdict: tuple[str, ...]
    tables: tuple[Table, ...]
    paths: tuple[Path, ...]
    full: RoomError | None = None

    def show(self, console: Console, *, details: bool = False) -> None:
        """Print the first table, and where asked for all others, whole even where the console is narrow or a file.

        Raises:
            RoomError: a file of the report could not be written; only then, so that a full disk hides no table.
        """
        if details:
            console.print(table.to_terminal(self.tables), soft_wrap=True, end="")
        console.print(table.headline_to_terminal(self.headline, self.verdict), soft_wrap=True, end="")
        if self.full is not None:
            raise self.full
        more = "" if details else "; more tables: --details, or table.md there"
        console.print(f"Records, tables, plots: {self.folder}{more}", soft_wrap=True, markup=False, highlight=False)


def report(folder: Path) -> Report:
    """Make the tables, the plots, and where the experiment has targets ``targets.md``, of a run folder anew.

    Each is replaced whole.

    The same records give the same bytes. ``experiment.toml`` and ``environment.json`` may be missing.

    Raises:
        DataError: no records, or a line is none. ExperimentInvalid: ``experiment.toml`` is none.
    """
    records = record.read(folder)
    planned = planned_of(folder)
    place = wording.setting({**environment(folder), **({"experiment": planned.name} if planned else {})})
    rows = summary(records, planned)
    tables = table.tables(rows, place)
    first = headline(rows, place)
    said = verdict(rows, wording.ways(rows))
    texts = {
        "summary.csv": summary_csv.to_csv(rows),
        "table.md": table.headline_to_markdown(first, said) + "\n## Details\n\n" + table.to_markdown(tables),
        "table.tex": latex.to_latex([*first.panels, *tables]),
    }
    if planned is not None and planned.targets:
        texts["targets.md"] = targets_table.to_markdown(targets.findings(records, planned), place)
    files = {folder / name: text.encode() for name, text in texts.items()}
    files |= {folder / PLOTS / name: content for name, content in _plots(records, rows, place).items()}
    try:
        for path, content in files.items():
            write(path, content)
        _remove_stale(folder / PLOTS, set(files))
    except RoomError as error:
        return Report(folder, tuple(rows), first, said, tuple(tables), tuple(path for path in files if path.exists()), error)
    return Report(folder, tuple(rows), first, said, tuple(tables), tuple(files))


def write(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, whole or not at all.

    Raises:
        RoomError: the disk is full, or the folder can't be written.
    """
    scratch = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(exist_ok=True)
        try:
            scratch.write_bytes(content)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise RoomError(path, error) from error


def _plots(records: list[record.Record], rows: list[Row], place: wording.Setting) -> Mapping[str, bytes]:
    from bench.reporting import plots  # matplotlib is slow to import, and the command line imports this module

    return plots.plots(records, rows, place)


def planned_of(folder: Path) -> Experiment | None:
    """The experiment that a run folder was to run, where its file is there.

    Raises:
        ExperimentInvalid: it is none.
    """
    path = folder / EXPERIMENT
    return experiment.load(str(path)) if path.exists() else None


def environment(folder: Path) -> dict[str, object]:
    """What ``environment.json`` of a folder says; nothing where it is missing or none."""
    try:
        found = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove_stale(folder: Path, kept: set[Path]) -> None:
    """Plots of an earlier report that these records have no data for."""
    from bench.reporting import plots

    for name in (*plots.NAMES, *plots.GONE):
        for path in (folder / f"{name}.png", folder / f"{name}.svg"):
            if path not in kept:
                path.unlink(missing_ok=True)
