"""Measure ways of reading batches from PostgreSQL; prints the table of docs/postgres.md.

    python docs/postgres_ways.py STORES

STORES is a folder into which ``loadstone pack cifar10 postgres --store-dir STORES`` has packed CIFAR-10. ADBC is measured
where adbc-driver-postgresql and pyarrow are installed. Not measured: reading files on the server (``lo``,
``pg_read_binary_file``), which would not be reading a database.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import torch
from psycopg import pq, sql

from loaders.codec import Pixels
from loaders.loading import loader
from loaders.mapping import gather
from loaders.order import Indices
from loaders.pack import open_store
from loaders.postgres_arrays import adapt_arrays, bigint_array
from loaders.postgres_connection import connect
from loaders.postgres_reader import layout_of, put
from loaders.postgres_server import EmbeddedServer
from loaders.postgres_wire import Wire
from loaders.store import Store

BATCH, IMAGES, SLOW_IMAGES, ROUNDS, BLOCK, RECORD, COUNT = 256, 5120, 1024, 9, 100, 3072, 50_000
TABLES = ("ways_plain", "ways_external")
PACKED = "ways_packed"

Connection = psycopg.Connection[Any]
Read = Callable[[Indices, Pixels], None]
"""Fills a batch, uint8 (B, 3072), with the pictures at indices, int64 (B,)."""
Open = Callable[[Connection, str], Read]


def put_by_id(ids: Any, images: Pixels, indices: Indices, out: Pixels) -> None:
    """Copy rows that came in any order to where their ids are asked for."""
    by_id = np.argsort(ids, kind="stable")
    put(images, by_id[np.searchsorted(ids, indices, sorter=by_id)], out)


def joined(pieces: Any) -> Pixels:
    """Pictures that came one by one, as one array."""
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, RECORD)


def asks(connection: Connection, query: str) -> Callable[[Indices], list[tuple[Any, ...]]]:
    """A prepared query whose parameters and rows are binary."""
    cursor = connection.cursor(binary=True)
    return lambda *parts: cursor.execute(query.encode(), parts, prepare=True).fetchall()


def off_the_socket(key: str) -> Open:
    """Rows by their place (``ctid``) or their ``id``, without libpq."""

    def opened(connection: Connection, table: str) -> Read:
        layout = layout_of(connection, sql.Identifier(table), 0, COUNT) if key == "ctid" else None
        query = sql.SQL(f"SELECT id, label, image FROM {table} WHERE {key} = ANY($1)")
        wire = Wire(connection, query, sql.SQL("tid[]") if layout else sql.SQL("bigint[]"), RECORD)

        def read(indices: Indices, out: Pixels) -> None:
            rows = wire.ask(layout.places(indices) if layout else bigint_array(indices), len(indices))
            put_by_id(rows["id"].astype(np.int64), rows["image"], indices, out)

        return read

    return opened


def rows_joined(connection: Connection, table: str) -> Read:
    """Rows of psycopg, joined to one array."""
    ask = asks(connection, f"SELECT id, image FROM {table} WHERE id = ANY(%s)")

    def read(indices: Indices, out: Pixels) -> None:
        ids, images = zip(*ask(indices), strict=True)
        by_id = np.argsort(ids)
        gather(joined(images), by_id[np.searchsorted(ids, indices, sorter=by_id)], out)

    return read


def row_by_row(connection: Connection, table: str) -> Read:
    """Rows of psycopg, copied one by one."""
    ask = asks(connection, f"SELECT id, image FROM {table} WHERE id = ANY(%s)")

    def read(indices: Indices, out: Pixels) -> None:
        found = dict(ask(indices))
        for row, index in enumerate(indices.tolist()):
            out[row] = np.frombuffer(found[index], np.uint8)

    return read


def without_rows(connection: Connection, table: str) -> Read:
    """Values of libpq, without psycopg's rows."""
    connection.execute(f"PREPARE ways (bigint[]) AS SELECT id, image FROM {table} WHERE id = ANY($1)".encode())

    def read(indices: Indices, out: Pixels) -> None:
        found = connection.pgconn.exec_prepared(b"ways", [bigint_array(indices)], [pq.Format.BINARY], pq.Format.BINARY)
        ids = np.frombuffer(b"".join(found.get_value(row, 0) or b"" for row in range(found.ntuples)), ">i8")
        put_by_id(ids, joined(found.get_value(row, 1) or b"" for row in range(found.ntuples)), indices, out)

    return read


def in_request_order(joins: str) -> Open:
    """The server puts the rows in order."""

    def opened(connection: Connection, table: str) -> Read:
        ask = asks(
            connection, f"SELECT image FROM unnest(%s::bigint[]) WITH ORDINALITY AS asked (id, place) {joins.format(table)}"
        )

        def read(indices: Indices, out: Pixels) -> None:
            out[:] = joined(image for (image,) in ask(indices))

        return read

    return opened


def aggregated(connection: Connection, table: str) -> Read:
    """The server makes one value of the batch."""
    asked = "unnest(%s::bigint[]) WITH ORDINALITY AS asked (id, place)"
    ask = asks(connection, f"SELECT string_agg(image, ''::bytea ORDER BY place) FROM {asked} JOIN {table} USING (id)")

    def read(indices: Indices, out: Pixels) -> None:
        out[:] = joined(ask(indices)[0])

    return read


def copied(connection: Connection, table: str) -> Read:
    """A COPY of the batch."""
    cursor = connection.cursor()
    row = np.dtype([("head", "V6"), ("id", ">i8"), ("bytes", ">i4"), ("image", np.uint8, (RECORD,))])

    def read(indices: Indices, out: Pixels) -> None:
        listed = ",".join(map(str, indices.tolist()))
        query = f"COPY (SELECT id, image FROM {table} WHERE id = ANY('{{{listed}}}')) TO STDOUT (FORMAT BINARY)"
        with cursor.copy(query.encode()) as copy:
            data = b"".join(copy)
        rows = np.frombuffer(data, row, len(indices), 19)  # behind the header: signature, flags, extension
        put_by_id(rows["id"].astype(np.int64), rows["image"], indices, out)

    return read


def arrow(connection: Connection, table: str) -> Read:
    """ADBC: the driver makes columns of the rows."""
    dbapi = importlib.import_module("adbc_driver_postgresql.dbapi")

    info = connection.info
    cursor = dbapi.connect(f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}").cursor()

    def read(indices: Indices, out: Pixels) -> None:
        listed = ",".join(map(str, indices.tolist()))
        cursor.execute(f"SELECT id, image FROM {table} WHERE id = ANY('{{{listed}}}')")
        found = cursor.fetch_arrow_table().combine_chunks()
        images = np.frombuffer(found["image"].chunk(0).buffers()[2], np.uint8, len(indices) * RECORD).reshape(-1, RECORD)
        put_by_id(found["id"].to_numpy(), images, indices, out)

    return read


def pipelined(connection: Connection, table: str) -> Read:
    """Two halves of a batch in flight at once; the reader's contract has no next batch to ask for."""
    query = f"SELECT id, image FROM {table} WHERE id = ANY(%s)".encode()
    cursors = [connection.cursor(binary=True) for _ in range(2)]

    def read(indices: Indices, out: Pixels) -> None:
        halves = np.array_split(indices, 2)
        with connection.pipeline():
            for cursor, half in zip(cursors, halves, strict=True):
                cursor.execute(query, (half,), prepare=True)
            rows = [row for cursor in cursors for row in cursor.fetchall()]
        ids, images = zip(*rows, strict=True)
        put_by_id(np.array(ids), joined(images), indices, out)

    return read


def one_by_one(connection: Connection, table: str) -> Read:
    """A round trip a row."""
    ask = asks(connection, f"SELECT image FROM {table} WHERE id = %s")

    def read(indices: Indices, out: Pixels) -> None:
        for row, index in enumerate(indices.tolist()):
            out[row] = np.frombuffer(ask(index)[0][0], np.uint8)

    return read


def whole_blocks(connection: Connection, _: str) -> Read:
    """Every block that the batch lies in, whole."""
    ask = asks(connection, f"SELECT block, images FROM {PACKED} WHERE block = ANY(%s)")

    def read(indices: Indices, out: Pixels) -> None:
        blocks = {block: np.frombuffer(images, np.uint8).reshape(-1, RECORD) for block, images in ask(indices // BLOCK)}
        for row, index in enumerate(indices.tolist()):
            out[row] = blocks[index // BLOCK][index % BLOCK]

    return read


def slices(connection: Connection, _: str) -> Read:
    """Of every block the parts that are asked for, cut out by the server."""
    part = f"substr(images, 1 + (asked.id %% {BLOCK})::int * {RECORD}, {RECORD})"
    asked = "unnest(%s::bigint[]) WITH ORDINALITY AS asked (id, place)"
    ask = asks(connection, f"SELECT {part} FROM {asked} JOIN {PACKED} ON block = asked.id / {BLOCK} ORDER BY place")

    def read(indices: Indices, out: Pixels) -> None:
        out[:] = joined(image for (image,) in ask(indices))

    return read


OURS = "**places (`ctid = ANY`), rows off the socket**"
EACH_TABLE: dict[str, Open] = {
    OURS: off_the_socket("ctid"),
    "`id = ANY`, rows off the socket": off_the_socket("id"),
    "`id = ANY`, psycopg's rows joined, put back by `np.take`": rows_joined,
    "the same, put back row by row": row_by_row,
    "the same, values taken from libpq's result": without_rows,
    "the same, two halves in libpq's pipeline mode": pipelined,
    "binary `COPY` of `id = ANY`, parsed as one view": copied,
    "`unnest … WITH ORDINALITY` joined, in request order": in_request_order("JOIN {} USING (id) ORDER BY place"),
    "the same, `CROSS JOIN LATERAL`": in_request_order(
        "CROSS JOIN LATERAL (SELECT image FROM {} AS t WHERE t.id = asked.id) AS t ORDER BY place"
    ),
    "`string_agg` in request order": aggregated,
    "ADBC to Arrow": arrow,
    "a row at a time, prepared, binary": one_by_one,
}
ONCE: dict[str, Open] = {
    "rows of 100 pictures, whole": whole_blocks,
    "rows of 100 pictures, `substr` of each": slices,
}
SLOW = (one_by_one, whole_blocks)


def tables(connection: Connection, store: Store) -> None:
    """Copies of the train split in each layout, in the order of ``id``."""
    source = store.options["table"]
    for table, storage in zip(TABLES, ("PLAIN", "EXTERNAL"), strict=True):
        statements = (
            f"DROP TABLE IF EXISTS {table}",
            f"CREATE TABLE {table} (id bigint NOT NULL, label integer NOT NULL, image bytea NOT NULL)",
            f"ALTER TABLE {table} ALTER COLUMN image SET STORAGE {storage}",
            f"INSERT INTO {table} SELECT id, label, image FROM {source} WHERE split = 0 ORDER BY id",
            f"ALTER TABLE {table} ADD PRIMARY KEY (id)",
            f"VACUUM (FREEZE, ANALYZE) {table}",
        )
        for statement in statements:
            connection.execute(statement.encode())
    images = "string_agg(image, ''::bytea ORDER BY id)"
    for statement in (
        f"DROP TABLE IF EXISTS {PACKED}",
        f"CREATE TABLE {PACKED} (block bigint NOT NULL, images bytea NOT NULL)",
        f"ALTER TABLE {PACKED} ALTER COLUMN images SET STORAGE EXTERNAL",
        f"INSERT INTO {PACKED} SELECT id / {BLOCK}, {images} FROM {source} WHERE split = 0 GROUP BY 1",
        f"ALTER TABLE {PACKED} ADD PRIMARY KEY (block)",
        f"VACUUM (FREEZE, ANALYZE) {PACKED}",
    ):
        connection.execute(statement.encode())


def speed(reads: list[Read], indices: Indices) -> float:
    """Thousand images a second of as many threads as there are readers, each reading every so many-th batch."""
    batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]

    def run(number: int) -> None:
        out = np.empty((BATCH, RECORD), np.uint8)
        for batch in batches[number :: len(reads)]:
            reads[number](batch, out)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(reads))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(indices) / (time.perf_counter() - started) / 1e3


class Rows(torch.utils.data.Dataset[Any]):
    """A row at a time through DataLoader, as people write it."""

    def __init__(self, connection: Connection, table: str, binary: bool) -> None:
        self._cursor, self._query = connection.cursor(binary=binary), f"SELECT image, label FROM {table} WHERE id = %s".encode()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self._cursor.execute(self._query, (index,)).fetchone()
        assert row is not None
        return torch.from_numpy(np.frombuffer(row[0], np.uint8).reshape(32, 32, 3).copy()), row[1]


def through_dataloader(connection: Connection, store: Store, indices: Indices) -> Iterator[tuple[str, float]]:
    """Ways of one row at a time: what each is, and thousand images a second."""
    for words, binary in (("text", False), ("binary", True)):
        data = Rows(connection, TABLES[0], binary)
        batches = torch.utils.data.DataLoader(data, batch_size=BATCH, sampler=indices.tolist())
        started = time.perf_counter()
        images = sum(len(batch) for batch, _ in batches)
        yield f"a row at a time through DataLoader, written by hand, {words}", images / (time.perf_counter() - started) / 1e3
    with loader(store, batch_size=BATCH, fetch="item", limit=len(indices)) as batches_by_item:
        batches_by_item.reader.payloads(indices[:1])
        started = time.perf_counter()
        images = sum(len(batch.images) for batch in batches_by_item)
        yield "the same by `fetch = item`", images / (time.perf_counter() - started) / 1e3


def measure(dsn: str, store: Store, stack: contextlib.ExitStack) -> dict[tuple[str, str, int], list[float]]:
    """Speeds by way, table and threads: one a round."""

    def fresh() -> Connection:
        connection = stack.enter_context(contextlib.closing(connect(dsn)))
        adapt_arrays(connection)
        return connection

    plain = fresh()
    tables(plain, store)
    ways = [(words, table, opened) for table in TABLES for words, opened in EACH_TABLE.items()]
    ways += [(words, PACKED, opened) for words, opened in ONCE.items()]
    if importlib.util.find_spec("adbc_driver_postgresql") is None or importlib.util.find_spec("pyarrow") is None:
        ways = [way for way in ways if way[2] is not arrow]
    reads = {(words, table): [opened(fresh(), table) for _ in range(2)] for words, table, opened in ways}
    found: dict[tuple[str, str, int], list[float]] = {}
    for number in range(-1, ROUNDS):  # the first is not kept
        rng = np.random.default_rng(number + 1)
        indices = rng.permutation(COUNT)[:IMAGES]
        todo = [(way, threads) for way in ways for threads in (1, 2)]
        figures = {}
        for at in rng.permutation(len(todo)):
            (words, table, opened), threads = todo[at]
            some = indices[:SLOW_IMAGES] if opened in SLOW else indices
            figures[words, table, threads] = speed(reads[words, table][:threads], some)
        for words, figure in through_dataloader(plain, store, indices[:SLOW_IMAGES]):
            figures[words, TABLES[0], 1] = figure
        if number >= 0:
            for key, figure in figures.items():
                found.setdefault(key, []).append(figure)
    return found


def check(dsn: str, store: Store) -> None:
    """Every way reads the same pictures."""
    indices = np.random.default_rng(0).permutation(COUNT)[:BATCH]
    wanted = joined(bytes(payload) for payload in store.reader("train").payloads(indices))
    for table in (*TABLES, PACKED):
        for words, opened in (ONCE if table == PACKED else EACH_TABLE).items():
            with contextlib.closing(connect(dsn)) as connection, contextlib.suppress(ImportError):
                adapt_arrays(connection)
                out = np.zeros((BATCH, RECORD), np.uint8)
                opened(connection, table)(indices, out)
                assert (out == wanted).all(), f"{words} of {table}"


def lines(found: dict[tuple[str, str, int], list[float]]) -> Iterator[str]:
    """The table, in Markdown: thousand images a second, and the ratio to our way in the same rounds with as many threads."""
    yield (
        "| thousand images/s (ratio to the first row) | "
        + " | ".join(f"`{name}`, {threads} thread{'s' * (threads > 1)}" for name in ("PLAIN", "EXTERNAL") for threads in (1, 2))
        + " |"
    )
    yield "|---" * 5 + "|"
    measured = dict.fromkeys(words for words, _, _ in found)
    by_batch = EACH_TABLE | ONCE
    for words in [*(words for words in by_batch if words in measured), *(words for words in measured if words not in by_batch)]:
        cells = []
        for table in TABLES:
            for threads in (1, 2):
                # Packed rows have one layout only: EXTERNAL.
                key = (words, PACKED if words in ONCE and table == TABLES[1] else table, threads)
                ours = found[OURS, TABLES[0], threads]
                ratios = [figure / first for figure, first in zip(found.get(key, ()), ours, strict=False)]
                cells.append(f"{statistics.median(found[key]):.3g} ({statistics.median(ratios):.2f})" if ratios else "")
        yield f"| {words} | " + " | ".join(cells) + " |"


def main(stores: Path) -> None:
    """Print the table."""
    with EmbeddedServer(stores) as server, contextlib.ExitStack() as stack:
        store = open_store(stores / "cifar10" / "raw" / "postgres")
        with contextlib.closing(connect(server.dsn)) as connection:
            tables(connection, store)
            check(server.dsn, store)
        found = measure(server.dsn, store, stack)
        with contextlib.closing(connect(server.dsn)) as connection:
            connection.execute(f"DROP TABLE {', '.join((*TABLES, PACKED))}".encode())
    sys.stdout.writelines(line + "\n" for line in lines(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
