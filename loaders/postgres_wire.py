"""Rows of one length, taken from PostgreSQL's socket as they lie there: a batch is one buffer, and no object a row.

libpq copies each row into memory of its own, and psycopg each value into an object: together as much work as the
server's. Rows of one length need neither: seen as an array, the answer is the batch (docs/postgres.md has the figures).
The connection, its log-in and all other statements stay libpq's; this sends one prepared statement and reads its answer.

Source: "Message Formats" in PostgreSQL's documentation, protocol 3.0, which every server since 7.4 speaks.
"""

from __future__ import annotations

import os
import socket
import struct

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from loaders.postgres_connection import Connection

Rows = npt.NDArray[np.void]

_STATEMENT = "loadstone_rows"
_EXECUTE_AND_SYNC = b"E" + struct.pack(">i", 9) + b"\0" + struct.pack(">i", 0) + b"S" + struct.pack(">i", 4)
_BOUND = b"2" + struct.pack(">i", 4)
_TAIL_BYTES = 1 << 14  # what may stand behind the rows: an error with its context, at most

_ROW, _ERROR, _READY = b"D"[0], b"E"[0], b"Z"[0]


def row_type(record_bytes: int) -> np.dtype[np.void]:
    """A DataRow message of ``id bigint, label integer, image bytea`` in binary, as a structured type."""
    fields = [("message", "S1"), ("bytes", ">i4"), ("columns", ">i2"), ("id_bytes", ">i4"), ("id", ">i8")]
    fields += [("label_bytes", ">i4"), ("label", ">i4"), ("image_bytes", ">i4")]
    return np.dtype([*fields, ("image", np.uint8, (record_bytes,))])


def speaks_plainly(connection: Connection) -> bool:
    """Whether what goes over the connection's socket is the protocol itself, not encrypted."""
    return not (connection.pgconn.ssl_in_use or connection.pgconn.used_gssapi)


class Wire:
    """One prepared statement of a connection, whose answers are rows of one length.

    Args:
        connection: open, in autocommit, not encrypted; between answers it can be used for anything else.
        query: gives ``id``, ``label`` and ``image`` of ``record_bytes`` bytes, for the one array that it takes as ``$1``.
        array: the array's type, such as ``bigint[]``.
    """

    def __init__(self, connection: Connection, query: sql.Composable, array: sql.SQL, record_bytes: int) -> None:
        connection.execute(sql.SQL("PREPARE {} ({}) AS {}").format(sql.Identifier(_STATEMENT), array, query))
        # A descriptor of its own, so that closing either leaves the other.
        self._socket = socket.socket(fileno=os.dup(connection.pgconn.socket))
        self._row = row_type(record_bytes)
        self._buffer = bytearray()

    def close(self) -> None:
        """Let go of the socket; the connection stays open."""
        self._socket.close()

    def ask(self, array: bytes, most: int) -> Rows:
        """The rows for an array in PostgreSQL's binary form: at most ``most`` of them, valid until the next call.

        Raises:
            psycopg.Error: what the server says, or that it is gone; after that the connection is of no use.
        """
        if len(self._buffer) < len(_BOUND) + most * self._row.itemsize + _TAIL_BYTES:
            self._buffer = bytearray(len(_BOUND) + most * self._row.itemsize + _TAIL_BYTES)
        bind = (
            b"\0" + _STATEMENT.encode() + b"\0" + struct.pack(">hhhi", 1, 1, 1, len(array)) + array + struct.pack(">hh", 1, 1)
        )
        try:
            # libpq has it otherwise, and is given it back so.
            self._socket.setblocking(True)
            self._socket.sendall(b"B" + struct.pack(">i", 4 + len(bind)) + bind + _EXECUTE_AND_SYNC)
            count = self._receive()
            self._socket.setblocking(False)
        except OSError as error:
            raise psycopg.OperationalError(error.strerror or str(error)) from None
        return np.frombuffer(self._buffer, self._row, count, len(_BOUND))

    def _receive(self) -> int:
        """Fill the buffer up to the end of the answer: the number of rows in it."""
        view, end, rows = memoryview(self._buffer), 0, 0
        while True:
            got = self._socket.recv_into(view[end:])
            end += got
            rows += self._more_rows(view[:end], rows)
            # An answer may be an error from its first byte on.
            behind = len(_BOUND) + rows * self._row.itemsize if view[0] == _BOUND[0] else 0
            if not got:
                raise _error_in(view[behind:end]) or psycopg.OperationalError("server closed the connection unexpectedly")
            if behind < end and view[behind] != _ROW and _ended(view[behind:end]):
                return rows

    def _more_rows(self, view: memoryview, rows: int) -> int:
        """How many whole rows stand behind the first ``rows``."""
        step = self._row.itemsize
        place = len(_BOUND) + rows * step
        whole = max(0, len(view) - place) // step
        kinds = bytes(view[place : place + whole * step : step])
        return len(kinds) - len(kinds.lstrip(b"D"))


def _messages(tail: memoryview) -> list[tuple[int, memoryview]]:
    """The whole messages at the start of ``tail``: type and body."""
    found, place = [], 0
    while place + 5 <= len(tail):
        (length,) = struct.unpack_from(">i", tail, place + 1)
        if place + 1 + length > len(tail):
            break
        found.append((tail[place], tail[place + 5 : place + 1 + length]))
        place += 1 + length
    return found


def _ended(tail: memoryview) -> bool:
    """Whether the server is ready for the next query.

    Raises:
        psycopg.Error: what it says instead of rows.
    """
    messages = _messages(tail)
    if any(kind == _ROW for kind, _ in messages) or len(tail) >= _TAIL_BYTES:
        raise psycopg.OperationalError("server sent an answer that is not rows of one length")
    if not messages or messages[-1][0] != _READY:
        return False
    if said := _error_in(tail):
        raise said
    return True


def _error_in(tail: memoryview) -> psycopg.Error | None:
    """The error that the server reported, as psycopg would raise it."""
    for kind, body in _messages(tail):
        if kind == _ERROR:
            fields = {part[:1]: part[1:].decode(errors="replace") for part in bytes(body).split(b"\0") if part}
            try:
                raised = psycopg.errors.lookup(fields.get(b"C", ""))
            except KeyError:
                raised = psycopg.DatabaseError
            return raised(fields.get(b"M", "no words"))
    return None
