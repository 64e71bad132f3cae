"""Rows taken off the socket, from a server that the test plays: answers in any pieces, and answers that are none."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from loaders.postgres_wire import Wire, row_type, speaks_plainly

BYTES = 6
BOUND, READY = b"2\0\0\0\4", b"Z\0\0\0\5I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


def row(number: int) -> bytes:
    image = bytes([number]) * BYTES
    return message(b"D", struct.pack(">hiqiii", 3, 8, number, 4, number + 100, BYTES) + image)


def done(rows: int) -> bytes:
    return message(b"C", f"SELECT {rows}\0".encode())


ERROR = message(b"E", b'SERROR\0C42P01\0Mrelation "x" does not exist' + b"\0\0")


class Played:
    """A connection whose server sends, for the next question, given pieces of an answer."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        connection: Any = SimpleNamespace(pgconn=SimpleNamespace(socket=ours.fileno()), execute=lambda _: None)
        self.wire = Wire(connection, sql.SQL("SELECT"), sql.SQL("bigint[]"), BYTES)
        ours.close()

    def ask(self, pieces: Sequence[bytes], most: int = 4, *, hang_up: bool = False) -> Any:
        def serve() -> None:
            self.theirs.recv(1 << 16)
            for piece in pieces:
                self.theirs.sendall(piece)
            if hang_up:
                self.theirs.close()

        server = threading.Thread(target=serve)
        server.start()
        try:
            return self.wire.ask(b"", most).copy()
        finally:
            server.join()


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.wire.close()
    made.theirs.close()


ANSWER = BOUND + b"".join(map(row, (2, 68, 90))) + done(3) + READY


@pytest.mark.parametrize("size", [1, 2, 7, row_type(BYTES).itemsize, 1000])
def test_rows_come_whole_in_whatever_pieces(played: Played, size: int) -> None:
    """An answer is the same however the socket cuts it, also where pictures hold what messages begin with."""
    for _ in range(2):
        rows = played.ask([ANSWER[at : at + size] for at in range(0, len(ANSWER), size)])
        assert rows["id"].tolist() == [2, 68, 90]
        assert rows["label"].tolist() == [102, 168, 190]
        assert (rows["image"] == np.repeat([[2], [68], [90]], BYTES, axis=1)).all()


def test_no_rows_are_an_answer(played: Played) -> None:
    """A batch of which no row is there ends, too."""
    assert len(played.ask([BOUND + done(0) + READY])) == 0


def test_what_a_server_says_beside_is_passed_over(played: Played) -> None:
    """A setting that changed is told between the rows and the end."""
    told = message(b"S", b"TimeZone\0UTC\0")
    assert played.ask([BOUND + row(7) + done(1) + told, READY])["id"].tolist() == [7]


@pytest.mark.parametrize("before", [b"", BOUND, BOUND + row(1)])
def test_an_error_is_raised_in_the_server_s_words(played: Played, before: bytes) -> None:
    """An error instead of rows, or amid them, is psycopg's of the same SQLSTATE."""
    with pytest.raises(psycopg.errors.UndefinedTable, match='relation "x" does not exist'):
        played.ask([before + ERROR + READY])


def test_an_error_and_then_nothing_is_told(played: Played) -> None:
    """A server that ends says why before it hangs up."""
    with pytest.raises(psycopg.errors.UndefinedTable):
        played.ask([ERROR], hang_up=True)


@pytest.mark.parametrize("before", [b"", BOUND, BOUND + row(1), ANSWER[:-3]])
def test_a_server_that_hangs_up_is_an_error(played: Played, before: bytes) -> None:
    """An answer that ends early is no batch."""
    with pytest.raises(psycopg.OperationalError, match="closed the connection"):
        played.ask([before], hang_up=True)


def test_rows_of_another_length_are_refused(played: Played) -> None:
    """Rows that something else stands between are not read as if they followed each other."""
    notice = message(b"N", b"SNOTICE\0\0")
    with pytest.raises(psycopg.OperationalError, match="not rows of one length"):
        played.ask([BOUND + row(1) + notice + row(2) + done(2) + READY])


def test_libpq_gets_its_socket_back_as_it_was(played: Played) -> None:
    """Between answers the socket does not block: libpq relies on it."""
    played.ask([ANSWER])
    assert not played.wire._socket.getblocking()


@pytest.mark.parametrize(("tls", "gssapi"), [(True, False), (False, True), (False, False)])
def test_encryption_is_seen(tls: bool, gssapi: bool) -> None:
    """Only a connection without TLS and GSSAPI carries the protocol itself."""
    connection: Any = SimpleNamespace(pgconn=SimpleNamespace(ssl_in_use=tls, used_gssapi=gssapi))
    assert speaks_plainly(connection) == (not tls and not gssapi)
