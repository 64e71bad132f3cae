"""Reports: a run folder's tables and plots, re-made."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench import experiment
from bench.experiment import Experiment
from bench.record import Record
from bench.reporting.report import report, write
from datasets.errors import DataError, RoomError

MakeRecord = Callable[..., Record]
MakeFolder = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_report_is_made_of_records_alone(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder) -> None:
    """Neither ``experiment.toml`` nor ``environment.json`` is needed; every file named was written."""
    folder = folder_of(tmp_path / "run", [make("mmap"), make("hdf5", (2.0, 1.5))])
    found = report(folder)
    assert {path.name for path in found.paths} >= {"summary.csv", "table.md", "table.tex", "epoch_time.png", "loss.svg"}
    assert all(path.stat().st_size for path in found.paths)
    assert [row.cell.backend for row in found.rows] == ["mmap", "hdf5"]
    assert "| mmap" in (folder / "table.md").read_text()
    assert not list(folder.rglob("*.partial"))


def test_the_experiment_and_the_environment_are_used(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder) -> None:
    """Captions name them, and planned cells that have no record are rows."""
    done = make("mmap")
    missing = done.cell.model_copy(update={"backend": "hdf5"})
    toml = experiment.dump(Experiment(name="thesis-cpu", cells=(done.cell, missing), rounds=4))
    folder = folder_of(tmp_path / "run", [done], {"machine": "a machine", "torch": "2.14.1", "notes": ["a note"]}, toml)
    report(folder)
    text = (folder / "table.md").read_text()
    for part in ("thesis-cpu", "4 rounds", "a machine", "torch 2.14.1", "- a note", "not run: not reached"):
        assert part in text


def test_a_report_made_again_is_the_same(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder) -> None:
    """Byte for byte, so that a committed report can be checked against its records."""
    folder = folder_of(tmp_path / "run", [make("mmap"), make("mmap", mode="load")])
    report(folder)
    first = contents(folder)
    report(folder)
    assert contents(folder) == first


def test_plots_without_data_any_more_are_removed(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder) -> None:
    """A stale plot would stand for records that are not there; files of others are left."""
    folder = folder_of(tmp_path / "run", [make("mmap", mode="load")])
    (folder / "plots").mkdir()
    (folder / "plots" / "loss.png").write_bytes(b"stale")
    (folder / "plots" / "mine.png").write_bytes(b"mine")
    report(folder)
    assert not (folder / "plots" / "loss.png").exists()
    assert (folder / "plots" / "mine.png").read_bytes() == b"mine"


def test_a_folder_without_records_is_no_run_folder(tmp_path: Path) -> None:
    """The error says what to name instead, and nothing is written."""
    with pytest.raises(DataError, match=r"holds no runs\.jsonl"):
        report(tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", json.dumps({"notes": 3, "machine": ["x"]})])
def test_a_broken_environment_stops_no_report(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder, text: str) -> None:
    """It only describes; the records count."""
    folder = folder_of(tmp_path / "run", [make(status="failed", error="killed")])
    (folder / "environment.json").write_text(text)
    assert report(folder).rows[0].reason == "killed"


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    """The error names the file; no half of it stays behind."""
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RoomError, match="table"):
        write(tmp_path / "file" / "table.md", b"new")
    target = tmp_path / "table.md"
    target.mkdir()
    with pytest.raises(RoomError, match="table"):
        write(target, b"new")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


def test_the_report_is_shown_whole_in_a_narrow_log(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder) -> None:
    """Piped into a file, no row is cut or wrapped at 80 columns, and the last line says where the files are."""
    folder = folder_of(tmp_path / "run", [make("mmap"), make("mmap", mode="load")])
    file = io.StringIO()
    report(folder).show(Console(file=file, width=40))
    lines = file.getvalue().splitlines()
    row = next(line for line in lines if line.startswith(" mmap"))
    assert row.split()[:4] == ["mmap", "512", "27", "147"]
    assert lines[-1] == f"Records, tables, plots: {folder}; more tables: --details, or table.md there"
    file.truncate(0)
    report(folder).show(Console(file=file, width=40), details=True)
    assert any(line.startswith(" mmap") and line.endswith("147 MiB") for line in file.getvalue().splitlines())


def test_reports_need_no_torch() -> None:
    """A report is quick: nothing that it imports imports torch, nor matplotlib before it draws."""
    code = (
        "import sys, bench.reporting.report; print([name for name in ('torch', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_committed_schema_is_that_of_the_record() -> None:
    """``docs/record.schema.json`` is made from the model; a change of the model changes it."""
    committed = json.loads((ROOT / "docs" / "record.schema.json").read_text())
    assert committed == Record.model_json_schema(by_alias=True)


def test_the_documented_columns_are_those_of_the_csv(tmp_path: Path, make: MakeRecord, folder_of: MakeFolder) -> None:
    """``docs/records.md`` lists every column of ``summary.csv``, in order, and no other."""
    folder = folder_of(tmp_path / "run", [make(status="failed", error="killed")])
    report(folder)
    columns = (folder / "summary.csv").read_text().splitlines()[0].split(",")
    text = (ROOT / "docs" / "records.md").read_text().split("## summary.csv")[1].split("\n## ")[0]
    documented = [
        name.strip(" `") for line in text.splitlines() if line.startswith("| `") for name in line.split("|")[1].split(",")
    ]
    assert documented == columns
