"""Nothing is lost: an experiment that is killed again and again, resumed each time, ends as one that was left alone."""

from __future__ import annotations

import errno
import fcntl
import itertools
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.commands.run import Options, execute
from bench.experiment import parse
from bench.record import Record
from bench.reporting import report
from bench.reporting.summary import summary
from bench.running import leftovers, noise, runner, worker
from bench.running.prepare import Place
from bench.running.progress import plain_console
from datasets.errors import DataError, RoomError, UsageError

KILLS = 20
DATA = "synthetic:train=48,val=8,size=8,classes=2"
TOML = f"""
datasets = ["{DATA}"]
backends = ["mmap", "memory", "hdf5", "filesystem", "dali"]
modes = ["load"]
rounds = 8
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs that take some 50 ms: forked from this process, which has imported torch; passes are few, nothing is drawn."""
    monkeypatch.setattr(runner, "fork_server", lambda: multiprocessing.get_context("fork"))
    monkeypatch.setattr(noise, "Reference", lambda: lambda: 1.0)
    monkeypatch.setattr(worker, "LOAD_SECONDS", 0.001)
    monkeypatch.setattr(report, "_plots", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kill.toml").write_text(TOML)


def start(out: Path) -> int:
    """Begin or resume the experiment in a child; returns its process."""
    known = (out / report.ENVIRONMENT).exists()
    options = Options(resume=out) if known else Options(out=out, threads=1, device="cpu")
    child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = 70
        try:
            status = execute(None if known else "kill.toml", Place(Path("data"), Path("stores")), options)
        finally:
            os._exit(status)
    return child


def wait_until_free(out: Path) -> None:
    """Until the runs that a killed one began are gone too: forked, they share its hold on the folder."""
    deadline = time.monotonic() + 20
    while out.exists():
        try:
            with leftovers.locked(out):
                return
        except BlockingIOError:
            assert time.monotonic() < deadline, "a run outlived its runner"
            time.sleep(0.005)


def kept(out: Path) -> list[Record]:
    return record.read(out) if (out / record.RUNS).exists() else []


def counts(out: Path) -> list[tuple[Any, ...]]:
    """What the table says of each row, but for its times; rows are sorted by speed, which differs."""
    rows = summary(record.read(out), parse((out / report.EXPERIMENT).read_text(), "kill.toml"))
    found = [(row.cell.backend, row.status, row.reason, row.runs, row.rounds, row.train_images) for row in rows]
    return sorted(found, key=str)


def test_an_experiment_killed_at_twenty_moments_ends_as_one_left_alone(quick: None, tmp_path: Path) -> None:
    """Every finished record stays, exactly once; the rest is run; the table counts the same runs."""
    alone, out = tmp_path / "alone", tmp_path / "out"
    began = time.perf_counter()
    assert os.waitstatus_to_exitcode(os.waitpid(start(alone), 0)[1]) == 0
    most = (time.perf_counter() - began) / 4
    draws = random.Random(3)
    killed, before = 0, list[Record]()
    for _ in range(KILLS):
        child = start(out)
        time.sleep(draws.uniform(0, most))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        wait_until_free(out)
        after = kept(out)
        assert after[: len(before)] == before
        before = after
    assert killed  # most moments fall before the end, however quick the machine
    assert os.waitstatus_to_exitcode(os.waitpid(start(out), 0)[1]) == 0
    found = Counter((each.cell, each.round) for each in kept(out) if each.status == "ok")
    assert set(found.values()) == {1}
    assert set(found) == {(each.cell, each.round) for each in kept(alone) if each.status == "ok"}
    assert counts(out) == counts(alone)
    assert not list(out.rglob("*.partial"))


def test_what_differs_is_not_mixed(quick: None, tmp_path: Path) -> None:
    """Another version, or other pictures under the same name, are refused with the way out; told to, the table says so."""
    out = tmp_path / "out"
    (tmp_path / "kill.toml").write_text(TOML.replace("8\n", "1\n"))
    assert os.waitstatus_to_exitcode(os.waitpid(start(out), 0)[1]) == 0
    environment = out / report.ENVIRONMENT
    environment.write_text(environment.read_text().replace('"kernel": "', '"kernel": "old '))
    lines = (out / record.RUNS).read_text().replace('"content_sha256":"', '"content_sha256":"0')
    (out / record.RUNS).write_text(lines)
    place = Place(Path("data"), Path("stores"))
    with pytest.raises(UsageError) as refused:
        execute(None, place, Options(resume=out))
    assert "can't be resumed: kernel was old " in str(refused.value)
    assert f"{DATA} as mmap holds other pictures" in str(refused.value)
    assert "--despite-differences" in str(refused.value)
    assert execute(None, place, Options(resume=out, despite_differences=True)) == 0
    assert "Resumed, though kernel was old " in (out / "table.md").read_text()


def test_a_resumed_experiment_is_the_one_that_was_begun(tmp_path: Path) -> None:
    """Nothing cuts or changes it, and a folder of something else is refused."""
    place = Place(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="leave out EXPERIMENT, --backend, --rounds"):
        execute("quick", place, Options(resume=tmp_path, backend=("mmap",), rounds=2))
    with pytest.raises(DataError, match=r"holds no experiment\.toml"):
        execute(None, place, Options(resume=tmp_path))
    with pytest.raises(UsageError, match="name an experiment"):
        execute(None, place, Options())


def test_two_processes_do_not_write_the_same_records(quick: None, tmp_path: Path) -> None:
    """The second one is refused while the first one runs."""
    (tmp_path / "out").mkdir()
    with leftovers.locked(tmp_path / "out"), pytest.raises(UsageError, match="another process is running in"):
        execute("kill.toml", Place(Path("data"), Path("stores")), Options(out=tmp_path / "out", threads=1, device="cpu"))


def full_after(count: int) -> Callable[..., None]:
    """Writes of records that fail from the ``count``th on, as on a full disk."""
    left = iter(range(count))

    def append(folder: Path, found: Record) -> None:
        if next(left, None) is None:
            raise RoomError(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        written(folder, found)

    written = record.append
    return append


def test_a_disk_that_fills_up_hides_no_table(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While runs are recorded or the report is written: the table of what there is comes first, then the error."""
    place, options = Place(Path("data"), Path("stores")), Options(out=tmp_path / "out", threads=1, device="cpu")
    monkeypatch.setattr(record, "append", full_after(4))
    with pytest.raises(RoomError):
        execute("kill.toml", place, options)
    assert "load only" in capsys.readouterr().out
    assert len(kept(tmp_path / "out")) == 4

    def no_room(path: Path, _: bytes) -> None:
        raise RoomError(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(report, "write", no_room)
    with pytest.raises(RoomError):
        report.report(tmp_path / "out").show(plain_console())
    assert "load only" in capsys.readouterr().out


def test_sigterm_ends_an_experiment_as_ctrl_c_does(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 130, and a report of what finished; afterwards SIGTERM means what it meant."""
    turns = itertools.count()

    def one(*_: object) -> dict[str, Any]:
        if next(turns) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"status": "ok"}

    monkeypatch.setattr(runner, "one", one)
    before = signal.getsignal(signal.SIGTERM)
    options = Options(out=tmp_path / "out", threads=1, device="cpu")
    assert execute("kill.toml", Place(Path("data"), Path("stores")), options) == 130
    assert [each.status for each in kept(tmp_path / "out")].count("ok") == 2
    assert (tmp_path / "out" / "table.md").exists()
    assert signal.getsignal(signal.SIGTERM) == before


# ---- what killed runs leave


def test_what_a_killed_run_left_is_removed_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders whose process is gone, and its shared memory; those of processes that live stay."""
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("loadstone-run-dead", "loadstone-run-alive", "other"):
        (tmp_path / name / "pymp-x").mkdir(parents=True)
    for name in ("torch_4194305_1_0", f"torch_{os.getpid()}_1_0", "torch_x"):
        (tmp_path / name).write_bytes(b"")
    with leftovers.locked(tmp_path / "loadstone-run-alive"):
        assert leftovers.sweep() == ["1 temporary folder", "1 piece of shared memory"]
        assert leftovers.sweep() == []
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"loadstone-run-alive", "other", f"torch_{os.getpid()}_1_0", "torch_x"}


def test_a_folder_that_is_swept_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another start may take a folder for a dead one's before it is locked: the run gets one that is there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = fcntl.flock
    swept: list[Path] = []

    def late(handle: int, how: int) -> None:
        if not swept:
            swept.append(next(tmp_path.iterdir()))
            swept[0].rmdir()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    folder = leftovers._locked_for_good()
    assert folder.is_dir()
    assert [folder] == list(tmp_path.iterdir()) != swept


def test_a_run_s_temporary_files_go_with_its_process(tmp_path: Path) -> None:
    """The folder is locked as long as the process lives, and gone when it has ended."""
    context = multiprocessing.get_context("fork")
    there, said = context.Pipe()

    def use() -> None:
        with leftovers.scratch() as folder:
            said.send(str(folder))
            said.recv()

    process = context.Process(target=use)
    process.start()
    folder = Path(there.recv())
    with pytest.raises(BlockingIOError), leftovers.locked(folder):
        pass
    there.send(None)
    process.join()
    assert not folder.exists()
