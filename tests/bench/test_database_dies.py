"""A database that dies in the middle of an experiment costs its own runs, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench import record
from loaders.postgres_server import EmbeddedServer
from loaders.registry import availability

TOML = """
datasets = ["synthetic:train=64,val=8,size=8,classes=2"]
backends = ["mmap", "postgres"]
modes = ["load"]
rounds = 6
repeats = 0
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the server's account can reach, with a short path."""
    with tempfile.TemporaryDirectory(prefix="loadstone-dies-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def postmaster(stores: Path) -> psutil.Process | None:
    """The server over the cluster of ``stores``, as it notes itself; by that note alone, never by name."""
    note = stores / ".postgres" / "data" / "postmaster.pid"
    return psutil.Process(int(note.read_text().split()[0])) if note.exists() else None


@pytest.mark.skipif(not availability("postgres").ok, reason="no PostgreSQL binaries here")
def test_a_database_that_dies_costs_its_own_runs_alone(start: Start, place: Path) -> None:
    """Finished runs stay; the database's later ones are records with the error and what to do; other formats run to the end."""
    (place / "dies.toml").write_text(TOML)
    with start(place, "run", "dies.toml", "--out", "out", "--threads", 1) as command:
        runs = place / "out" / record.RUNS
        deadline = time.monotonic() + 90
        while not (runs.exists() and '"backend":"postgres"' in runs.read_text()):
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline, "no run of postgres was recorded"
            time.sleep(0.02)
        server = postmaster(place / "stores")
        assert server is not None
        os.kill(server.pid, signal.SIGKILL)
        out, err = command.communicate(timeout=120)
    found = record.read(place / "out")
    kept = {(each.cell.backend, each.round): each for each in found}
    assert len(kept) == len(found) == 12
    assert all(kept["mmap", number].status == "ok" for number in range(6))
    lost = [each for each in found if each.cell.backend == "postgres" and each.status != "ok"]
    assert 0 < len(lost) < 6
    assert all(each.status == "failed" and each.error.startswith("PostgreSQL at ") for each in lost), lost
    assert command.returncode == 4, err
    assert "mmap" in out
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    with EmbeddedServer(place / "stores"):  # a start frees the shared memory that the killed one left
        pass
