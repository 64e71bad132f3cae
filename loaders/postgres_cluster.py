"""One cluster of PostgreSQL: made by initdb, run by a child of ours that dies with us."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from datasets.errors import DatabaseError, RoomError, Unavailable
from loaders import postgres_child
from loaders.postgres_install import REMEDY, Account, Install, is_ours

EMBEDDED = "embedded server"
ROLE = "loadstone"
DATABASE = "postgres"
PORT = 5432
SOCKETS = "loadstone-"

# What a read-heavy benchmark wants; docker-compose.yml gives its server the same (a test compares them).
SETTINGS = {
    "jit": "off",  # compiling a plan costs more than such short queries take
    "wal_level": "minimal",  # a COPY into a table of the same transaction then writes no WAL
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "max_connections": "200",  # every worker of every run holds one
    "maintenance_work_mem": "256MB",
    "max_parallel_workers_per_gather": "0",  # workers of the benchmark are its own; a query shall not add some
    "random_page_cost": "1.1",
}


def shared_buffers() -> str:
    """A quarter of the machine's memory, at most 1 GB, as a setting."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{min(memory // 4, 2**30) // 2**20}MB"


class Launch:
    """Starts the server of a cluster whose lock we hold; the server inherits the lock, so it is free when it is gone."""

    def __init__(self, folder: Path, install: Install, account: Account, lock: int, timeout: float) -> None:
        self.folder, self.install, self.account, self.lock, self.timeout = folder, install, account, lock, timeout
        self.data, self.log = folder / "data", folder / "log"

    def run(self, undo: contextlib.ExitStack) -> Path:
        """Start it and wait until it answers: the folder of its socket. ``undo`` gets what stopping takes."""
        self._clear()
        if not self.install.reachable(self.account):
            self.install = self.install.copied_to(self.folder)
        if not self.data.exists():
            self._initdb()
        self._check_version()
        sockets = _make_sockets(self.account)
        undo.callback(shutil.rmtree, sockets, ignore_errors=True)
        _write_state(self.folder, {"sockets": str(sockets), "owner": os.getpid()})
        undo.callback((self.folder / "server.json").unlink, missing_ok=True)
        process = self._spawn("postgres", self._arguments(sockets), signal.SIGINT)
        undo.callback(_shut_down, process, self.timeout)
        self._wait(process, sockets)
        return sockets

    def _clear(self) -> None:
        """Remove what a killed owner left. We hold the lock: no server of ours is running."""
        stale = read_state(self.folder).get("sockets")
        if stale and Path(stale).name.startswith(SOCKETS):
            shutil.rmtree(stale, ignore_errors=True)
        (self.folder / "server.json").unlink(missing_ok=True)
        pid = postmaster(self.data)
        if pid and _works_in(pid, self.data):
            raise DatabaseError(EMBEDDED, f"process {pid} runs a server in {self.data} already", f"stop it: kill -INT {pid}")
        # Its pid may be another process's by now; PostgreSQL would then refuse to start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _initdb(self) -> None:
        scratch = self.folder / "data.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(0o700)
        self.account.give(scratch)
        arguments = ["--pgdata", str(scratch), "--username", ROLE, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"]
        process = self._spawn("initdb", [*arguments, "--no-sync", "--no-instructions"], signal.SIGKILL)
        try:
            failed = process.wait() != 0
        finally:
            process.kill()
            process.wait()
        if failed:
            shutil.rmtree(scratch, ignore_errors=True)
            self._raise_if_full()
            what = self._last_line().removeprefix("initdb: ").removeprefix("error: ")
            raise Unavailable("postgres", f"initdb: {what}", REMEDY)
        scratch.rename(self.data)

    def _check_version(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            found = "unknown"
        if found != str(self.install.major):
            what = f"{self.data} is of PostgreSQL version {found}, the binaries are of {self.install.major}"
            raise DatabaseError(EMBEDDED, what, f"remove {self.folder}, and pack the stores again")

    def _arguments(self, sockets: Path) -> list[str]:
        place = {"listen_addresses": "", "port": str(PORT), "unix_socket_permissions": "0700"}
        # Quoted, since the setting is a list of folders.
        place["unix_socket_directories"] = f'"{sockets}"'
        settings = {**SETTINGS, "shared_buffers": shared_buffers(), **place}
        return ["-D", str(self.data), *(word for item in settings.items() for word in ("-c", "=".join(item)))]

    def _spawn(self, name: str, arguments: list[str], death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        words = [os.getpid(), int(death_signal), self.account.uid, self.account.gid, self.install.program(name), *arguments]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", postgres_child.__file__, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"LC_ALL": "C", "PATH": os.defpath},
                pass_fds=(self.lock,),
                start_new_session=True,  # an interrupt from the terminal is ours to handle first
            )

    def _wait(self, process: subprocess.Popen[bytes], sockets: Path) -> None:
        deadline = time.monotonic() + self.timeout
        while not answers(sockets):
            if process.poll() is not None or time.monotonic() > deadline:
                self._raise_if_full()
                what = "did not start" if process.poll() is not None else f"did not answer within {self.timeout:g} s"
                remedy = f"see {self.log}; or remove {self.folder}, and pack the stores again"
                raise DatabaseError(EMBEDDED, f"it {what}: {self._last_line()}", remedy)
            time.sleep(0.02)

    def _lines(self) -> list[str]:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def _last_line(self) -> str:
        lines = self._lines()
        telling = [line for line in lines if "FATAL:" in line or "error:" in line]
        return (telling or lines or ["nothing in its log"])[-1]

    def _raise_if_full(self) -> None:
        if any(os.strerror(errno.ENOSPC) in line for line in self._lines()):
            raise RoomError(self.folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def _make_sockets(account: Account) -> Path:
    # Not under TMPDIR: a socket's path holds 107 bytes at most (unix(7)).
    folder = Path(tempfile.mkdtemp(prefix=SOCKETS, dir="/tmp"))
    account.give(folder)
    return folder


def socket_dsn(sockets: Path) -> str:
    """How to reach the server whose socket is in a folder, as a conninfo string."""
    # Every part that libpq would else take from the environment (PGPORT, PGGSSENCMODE) is given.
    return make_conninfo(host=str(sockets), port=PORT, user=ROLE, dbname=DATABASE, gssencmode="disable")


def answers(sockets: Path) -> bool:
    """Whether the server whose socket is in a folder takes connections."""
    try:
        psycopg.connect(socket_dsn(sockets), connect_timeout=5, application_name=ROLE).close()
    except psycopg.OperationalError:
        return False
    return True


def _shut_down(process: subprocess.Popen[bytes], timeout: float) -> None:
    for request, seconds in ((signal.SIGINT, timeout), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        process.send_signal(request)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


def postmaster(data: Path) -> int:
    """The process that serves a cluster, as it noted it itself; 0: none."""
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return 0


def _works_in(pid: int, data: Path) -> bool:
    """Whether a process is a server of this cluster: it works in the data folder. What we may not look at is not ours."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
    except OSError:
        return False


def read_state(folder: Path) -> dict[str, Any]:
    """What the process that runs the server of a cluster noted: ``sockets`` and ``owner``; empty where none runs."""
    try:
        # Another's note could lead us to another's server.
        state = json.loads((folder / "server.json").read_text(encoding="utf-8")) if is_ours(folder) else {}
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    scratch = folder / "server.json.partial"
    scratch.write_text(json.dumps(state), encoding="utf-8")
    scratch.replace(folder / "server.json")
