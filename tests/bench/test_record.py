"""Records: written so that none is lost, read so that none is misread."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import record
from bench.record import RUNS, Record
from datasets.errors import DataError, RoomError

MakeRecord = Callable[..., Record]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True, check=False
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_what_is_written_reads_back(tmp_path: Path, make: MakeRecord) -> None:
    """Records come back equal and in order, whatever their errors say."""
    made = [make("mmap"), make("hdf5", status="failed", error='one "line"\nand another, ä\u2028'), make(mode="load")]
    for one in made:
        record.append(tmp_path, one)
    assert record.read(tmp_path) == made
    assert (tmp_path / RUNS).read_bytes().count(b"\n") == 3


def test_a_record_is_one_write_then_flushed(tmp_path: Path, make: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whole line a record, on the disk before ``append`` returns."""
    calls: list[tuple[str, int]] = []
    write, fsync = os.write, os.fsync

    def written(file: int, data: bytes) -> int:
        calls.append(("write", len(data)))
        return write(file, data)

    def flushed(file: int) -> None:
        calls.append(("fsync", os.fstat(file).st_size))
        fsync(file)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "fsync", flushed)
    record.append(tmp_path, make())
    monkeypatch.undo()
    size = (tmp_path / RUNS).stat().st_size
    assert calls == [("write", size), ("fsync", size)]


@pytest.mark.parametrize("written", [0, 1, 100])
def test_a_write_cut_short_is_taken_back(
    tmp_path: Path, make: MakeRecord, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """A disk that takes only part of a line keeps the lines before it, and the error says what is full."""
    first, write = make("mmap"), os.write
    record.append(tmp_path, first)
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:written]))
    with pytest.raises(RoomError, match=r"runs\.jsonl: No space left") as refused:
        record.append(tmp_path, make("hdf5"))
    monkeypatch.undo()
    assert refused.value.exit_status == 5
    record.append(tmp_path, make("postgres"))
    assert record.read(tmp_path) == [first, make("postgres")]


def test_a_full_disk_loses_no_record(small_disk: Path, make: MakeRecord) -> None:
    """On a disk that is really full, what was recorded before stays readable, and room made is used."""
    (small_disk / "filler").write_bytes(bytes(8192))
    kept: list[Record] = []

    def fill() -> None:
        for number in range(100):
            record.append(small_disk, make(round=number))
            kept.append(make(round=number))

    with pytest.raises(RoomError, match="No space left"):
        fill()
    assert kept
    assert record.read(small_disk) == kept
    (small_disk / "filler").unlink()
    record.append(small_disk, make(round=100))
    assert len(record.read(small_disk)) == len(kept) + 1


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, make: MakeRecord) -> None:
    """A record that has no place to go is an error, never silence."""
    with pytest.raises(RoomError):
        record.append(tmp_path / "missing", make())
    (tmp_path / RUNS).mkdir()
    with pytest.raises(RoomError):
        record.append(tmp_path, make())


@pytest.mark.parametrize("kept", [1, 8, 13, 40, -3, -2])
def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path, make: MakeRecord, kept: int) -> None:
    """Wherever the kill cut it, even in the middle of a letter, the others are read, and the next has a line of its own."""
    record.append(tmp_path, make("mmap"))
    record.append(tmp_path, make("hdf5", status="failed", error="ä"))
    lines = (tmp_path / RUNS).read_bytes().splitlines()
    (tmp_path / RUNS).write_bytes(lines[0] + b"\n" + lines[1][:kept])
    assert record.read(tmp_path) == [make("mmap")]
    record.append(tmp_path, make("postgres"))
    assert record.read(tmp_path) == [make("mmap"), make("postgres")]


def test_a_letter_cut_in_two_is_left_out(tmp_path: Path, make: MakeRecord) -> None:
    """Half of a letter is no text, and still no reason to lose the records before it."""
    record.append(tmp_path, make("mmap"))
    record.append(tmp_path, make("hdf5", status="failed", error="ä"))
    whole = (tmp_path / RUNS).read_bytes()
    (tmp_path / RUNS).write_bytes(whole[: whole.index("ä".encode()) + 1])
    assert record.read(tmp_path) == [make("mmap")]


def test_a_last_line_without_its_end_is_a_record(tmp_path: Path, make: MakeRecord) -> None:
    """Only the line's end is missing: the record is whole, and the next one does not run into it."""
    record.append(tmp_path, make("mmap"))
    path = tmp_path / RUNS
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert record.read(tmp_path) == [make("mmap")]
    record.append(tmp_path, make("hdf5"))
    assert record.read(tmp_path) == [make("mmap"), make("hdf5")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"version": 2, "cell": {}}', "line 2: record version 2, this is 1"),
        ('{"round": 1}', "line 2: record version None"),
        ("[1, 2]", "line 2: it is no record"),
        ("7", "line 2: it is no record"),
        ("some text", "line 2: it is no record"),
        ('{"version": 1, "round": 0}', "line 2: cell: Field required"),
    ],
)
def test_what_is_no_record_is_refused_by_line(tmp_path: Path, make: MakeRecord, line: str, says: str) -> None:
    """A file of another version, or of something else, is not half read; the error names the line."""
    record.append(tmp_path, make())
    with (tmp_path / RUNS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as refused:
        record.read(tmp_path)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_field_is_refused(tmp_path: Path, make: MakeRecord) -> None:
    """A record with a field that this version does not know was not written by it."""
    record.append(tmp_path, make())
    path = tmp_path / RUNS
    path.write_text(path.read_text().replace('"round":0', '"round":0,"shape":1'))
    with pytest.raises(DataError, match="line 1: shape"):
        record.read(tmp_path)


@pytest.mark.parametrize("name", ["", "missing", "file"])
def test_a_folder_without_records_is_refused(tmp_path: Path, name: str) -> None:
    """An empty folder, none, and a file in its place: the error says what to name instead."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"holds no runs\.jsonl; name a folder that `loadstone run` wrote"):
        record.read(tmp_path / name)


def test_records_that_are_a_folder_are_refused(tmp_path: Path) -> None:
    """One line, and no traceback."""
    (tmp_path / RUNS).mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        record.read(tmp_path)


def test_the_first_epoch_does_not_count(make: MakeRecord) -> None:
    """A run's figure is the mean of its other epochs; a run of one epoch has none."""
    assert make(seconds=(9.0, 1.0, 3.0)).epoch_seconds == 2.0
    assert make(seconds=(9.0,)).epoch_seconds is None
