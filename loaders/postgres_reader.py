"""Reads a store's table by the batch: by the rows' places where they lie in order, else by their ``id``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from datasets.errors import SampleCorrupt, StoreCorrupt
from loaders.codec import Buffer, Pixels
from loaders.lazy import lazy
from loaders.mapping import check_bounds
from loaders.order import Draws, Indices
from loaders.postgres_arrays import adapt_arrays, bigint_array, tid_array
from loaders.postgres_connection import Connection, connect, said_plainly
from loaders.postgres_wire import Rows, Wire, speaks_plainly
from loaders.store import Labels, Reader, Sizes

if TYPE_CHECKING:
    from loaders.backends.postgres import PostgresStore

# Labels of so many rows are read at once: PostgreSQL makes no value of over 1 GB.
COLUMN_ROWS = 2**20

_BATCH = "SELECT id, label, height, width, image FROM {} WHERE id = ANY(%s)"
_ONE = "SELECT label, height, width, image FROM {} WHERE id = %s"
_NUMBERS = "SELECT id, label, height, width FROM {} WHERE id = ANY(%s)"
# The length is asked for so that every row of the answer has it; a row of another length is then missing.
_WIRE = "SELECT id, label, image FROM {} WHERE {} = ANY($1) AND octet_length(image) = {}"


class Layout(NamedTuple):
    """Where the rows of a split lie, one behind the other: page and item of the first, and rows to a page."""

    page: int
    item: int
    per_page: int

    def places(self, numbers: Indices) -> bytes:
        """The places of rows, counted from the split's first: ``tid[]``."""
        slots = numbers + (self.item - 1)
        return tid_array(self.page + slots // self.per_page, slots % self.per_page + 1)


class Session(NamedTuple):
    """An open connection, and what batches are asked for with.

    Attributes:
        batch, one, numbers: the queries of a batch, of one row, and of a batch's labels and sizes alone.
        wire: for pictures of one length on a socket that can be read plainly, else None.
        layout: where rows lie; None: they are found by ``id``.
    """

    dsn: str
    connection: Connection
    cursor: psycopg.Cursor[tuple[Any, ...]]
    batch: bytes
    one: bytes
    numbers: bytes
    wire: Wire | None
    layout: Layout | None


class _Columns(NamedTuple):
    """What came with the rows of a batch, in the order asked for: label, height, width; and for which indices."""

    indices: bytes
    numbers: npt.NDArray[np.int64]


class PostgresReader(Reader[Session]):
    """Fetches the rows of a batch in one round trip, and puts them in the order asked for."""

    store: PostgresStore

    def __init__(self, store: PostgresStore, split: str) -> None:
        super().__init__(store, split)
        self._first = store.offset(split)
        self._table = sql.Identifier(store.table)
        self._moved = False
        self._came: _Columns | None = None

    def __del__(self) -> None:
        # People drop readers rather than close them; psycopg warns of a connection that was only dropped.
        with contextlib.suppress(AttributeError):
            self.close()

    def _open(self) -> Session:
        dsn = self.store.dsn
        connection = connect(dsn)
        adapt_arrays(connection)
        with said_plainly(dsn, self.store.root), contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            connection.execute("SET default_transaction_read_only = on")
            plain = self.content.record_bytes is not None and speaks_plainly(connection)
            layout = layout_of(connection, self._table, self._first, len(self)) if plain and not self._moved else None
            wire = self._wire(connection, layout is not None) if plain else None
            undo.pop_all()
        batch, one, numbers = (sql.SQL(query).format(self._table).as_bytes(connection) for query in (_BATCH, _ONE, _NUMBERS))
        return Session(dsn, connection, connection.cursor(binary=True), batch, one, numbers, wire, layout)

    def _wire(self, connection: Connection, by_place: bool) -> Wire:
        assert self.content.record_bytes is not None
        key = sql.Identifier("ctid" if by_place else "id")
        query = sql.SQL(_WIRE).format(self._table, key, sql.Literal(self.content.record_bytes))
        return Wire(connection, query, sql.SQL("tid[]" if by_place else "bigint[]"), self.content.record_bytes)

    def _close(self, handle: Session) -> None:
        if handle.wire is not None:
            handle.wire.close()
        handle.connection.close()

    @property
    def path_taken(self) -> str:
        session = self.handle
        way = "binary rows by psycopg" if session.wire is None else "rows off the socket"
        return f"{'id' if session.layout is None else 'ctid'} = ANY, {way}, {self.store.storage}; a single row by id"

    @lazy
    def labels(self) -> Labels:
        return self._columns("label")[0].astype(np.int64)

    @lazy
    def sizes(self) -> Sizes:
        return np.stack(self._columns("height", "width"), axis=1)

    def _columns(self, *names: str) -> list[npt.NDArray[np.int32]]:
        """Columns of the split in the order of ``id``: int32 (n,) each."""
        starts = range(0, len(self), COLUMN_ROWS)
        parts = [self._column_parts(names, start, min(COLUMN_ROWS, len(self) - start)) for start in starts]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _column_parts(self, names: Sequence[str], start: int, rows: int) -> tuple[npt.NDArray[np.int32], ...]:
        chosen = sql.SQL(", ").join(sql.SQL("array_agg({} ORDER BY id)").format(sql.Identifier(name)) for name in names)
        query = sql.SQL("SELECT {} FROM {} WHERE id >= %s AND id < %s").format(chosen, self._table)
        first = self._first + start
        with self._asking() as session:
            found = session.cursor.execute(query, (first, first + rows)).fetchone()
        if found is None or found[0] is None or len(found[0]) != rows:
            count = len(found[0]) if found and found[0] is not None else 0
            raise StoreCorrupt(self.store.root, f"{count} rows of {self.split} where {rows} belong, from {start} on")
        return found

    def labels_at(self, indices: Indices) -> Labels:
        return self._numbers_at(indices)[:, 0]

    def sizes_at(self, indices: Indices) -> Sizes:
        return self._numbers_at(indices)[:, 1:].astype(np.int32)

    def _numbers_at(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Label, height and width at ``indices``: those that came with the batch, or asked for. Never a whole column."""
        if self._came is None or self._came.indices != indices.tobytes():
            with self._asking() as session:
                self._take(indices, session.cursor.execute(session.numbers, (indices + self._first,), prepare=True).fetchall())
        assert self._came is not None
        return self._came.numbers

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        if len(indices) == 1:
            return [self._payload(indices)]
        check_bounds(indices, len(self))
        with self._asking() as session:
            rows = session.cursor.execute(session.batch, (indices + self._first,), prepare=True).fetchall()
        return [rows[place][4] for place in self._take(indices, rows)]

    def _payload(self, indices: Indices) -> Buffer:
        """One sample as people ask for it, and at no more cost than theirs: a plain query for its row."""
        index = int(indices[0])
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} must be in [0, {len(self)})")
        with self._asking() as session:
            row = session.cursor.execute(session.one, (index + self._first,)).fetchone()
        if row is None:
            raise self._missing(index)
        *numbers, image = row
        self._came = _Columns(indices.tobytes(), np.array([numbers], np.int64))
        payload: bytes = image
        return payload

    def _missing(self, index: int) -> SampleCorrupt:
        return SampleCorrupt(self.store.root, self.split, index, "its row is missing")

    def _take(self, indices: Indices, rows: Sequence[tuple[Any, ...]]) -> Indices:
        """Keep the numbers of rows; returns which of the rows is that of each index: int64 (B,)."""
        numbers = np.array([row[:4] for row in rows], np.int64).reshape(len(rows), 4)
        places, missing = self._places(indices, numbers[:, 0])
        if missing.any():
            raise self._missing(int(indices[missing.argmax()]))
        self._came = _Columns(indices.tobytes(), numbers[places, 1:])
        return places

    def _places(self, indices: Indices, found: Indices) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """For each index which of the rows is its, and whether it has none: int64 (B,), bool (B,)."""
        wanted = indices + self._first
        # Rows come by their place, or by id; but a plan may hand them over otherwise.
        by_id = np.argsort(found, kind="stable")
        places = np.searchsorted(found, wanted, sorter=by_id)
        missing = np.append(found[by_id], -1)[places] != wanted
        return np.append(by_id, 0)[places], missing

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        if len(indices) == 1 or self.handle.wire is None:
            super().read(indices, out, draws)
            return
        check_bounds(indices, len(self))
        with self._asking() as session:
            assert session.wire is not None
            layout = session.layout
            asked = bigint_array(indices + self._first) if layout is None else layout.places(indices)
            rows = session.wire.ask(asked, len(indices))
        places, missing = self._places(indices, rows["id"].astype(np.int64))
        if missing.any():
            self._read_otherwise(indices, out, draws)
            return
        self._came = _Columns(indices.tobytes(), self._numbers_of(rows)[places])
        put(rows["image"], places, out)

    def _numbers_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        assert self.content.shape is not None
        height, width, _ = self.content.shape
        return np.stack([rows["label"], np.full(len(rows), height), np.full(len(rows), width)], axis=1).astype(np.int64)

    def _read_otherwise(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        """Read by ``id``, now and from here on: someone changed the table. What is not there is then named."""
        self.close()
        self._moved = True
        super().read(indices, out, draws)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Session]:
        """The session; what cuts an answer short is said plainly, and leaves it behind: the next read connects anew."""
        session = self.handle
        try:
            with said_plainly(session.dsn, self.store.root):
                yield session
        except BaseException:
            self.close()
            raise


def layout_of(connection: Connection, table: sql.Identifier, first: int, count: int) -> Layout | None:
    """Where ``count`` rows from id ``first`` on lie, told by the places of the first and the last, if all are equally long.

    Only a guess: whoever reads by it has to look at the ``id`` of every row that comes.
    """
    query = sql.SQL("SELECT ctid::text FROM {} WHERE id IN (%s, %s) ORDER BY id").format(table)
    found = connection.execute(query, (first, first + count - 1)).fetchall()
    if not found:
        return None
    (page, item), (last_page, last_item) = (_place(found[at][0]) for at in (0, -1))
    pages, rows = last_page - page, count - 1 + item - last_item
    if pages == 0:
        return Layout(page, item, item + count)
    return Layout(page, item, rows // pages) if pages > 0 and rows > 0 and rows % pages == 0 else None


def _place(text: str) -> tuple[int, int]:
    """Page and item of a ``ctid`` as text: ``(12,3)``."""
    page, _, item = text.strip("()").partition(",")
    return int(page), int(item)


def put(images: Pixels, places: Indices, out: Pixels) -> None:
    """Copy rows of ``images``, uint8 (n, bytes), of any stride, into ``out``, uint8 (B, ...): row i is ``places[i]``."""
    flat = out.reshape(len(places), images.shape[1])
    if len(places) == len(images):
        flat[np.argsort(places)] = images  # none twice: one copy, by NumPy without the GIL
    else:
        flat[:] = images[places]
