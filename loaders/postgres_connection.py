"""Connections to any PostgreSQL: made, described, and their errors said in one line that holds no password."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from datasets.errors import DatabaseError, RoomError, StoreCorrupt
from loaders.postgres_cluster import EMBEDDED
from loaders.postgres_server import is_embedded

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_SECONDS = 10
LOCK_SECONDS = 30

PACK_AGAIN = "pack the store again with `loadstone pack --force`"

# What a server says when it turns a connection down, and what helps. libpq gives these as words only, without SQLSTATE.
_REFUSALS = {
    r"password|pg_hba|authentication": "give the right user and password in --postgres, PGPASSWORD or ~/.pgpass",
    r"database .* does not exist": "create the database, or name another in --postgres",
    r"too many (clients|connections)|remaining connection slots": "raise max_connections, or run fewer workers",
}


def parse(dsn: str) -> dict[str, Any]:
    """The parts of a DSN, conninfo string or URL.

    Raises:
        DatabaseError: it is none. The text is not repeated: parts of a password may stand in the wrong place.
    """
    try:
        fields = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise _not_a_dsn() from None
    # A "@" or "/" in an unescaped password ends it early, and the rest of it becomes a host, port or database.
    misplaced = any("@" in str(fields.get(key) or "") for key in ("host", "hostaddr")) or (
        "://" in dsn and "@" in str(fields.get("dbname") or "")
    )
    if misplaced or not re.fullmatch(r"[\d,]*", str(fields.get("port") or "")):
        raise _not_a_dsn()
    return fields


def _not_a_dsn() -> DatabaseError:
    remedy = "write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with @ : / in a password as %40 %3A %2F"
    return DatabaseError("the address given", "it is no valid DSN", remedy)


def describe(dsn: str) -> str:
    """A server as errors and records name it: ``host:port/database``; never its user's password."""
    fields = parse(dsn)
    if is_embedded(dsn):
        return EMBEDDED
    host = fields.get("host") or fields.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
    return f"{host}:{fields.get('port') or 5432}/{fields.get('dbname') or fields.get('user') or ''}"


def connect(dsn: str) -> Connection:
    """A connection in autocommit, known to the server as ``loadstone``.

    Raises:
        DatabaseError: it is no DSN, or the server is down, or refuses.
    """
    fields = {"connect_timeout": CONNECT_SECONDS, **parse(dsn), "application_name": "loadstone"}
    try:
        return psycopg.connect(**fields, autocommit=True)
    except (psycopg.Error, UnicodeError) as error:
        what = _telling(error, fields)
        raise DatabaseError(describe(dsn), what, _refused(dsn, what)) from None


def _refused(dsn: str, what: str) -> str:
    for pattern, remedy in _REFUSALS.items():
        if re.search(pattern, what):
            return remedy
    return _gone(dsn)


_OWNER_ENDED = "the process that started it has ended or is ending; run the command again"


def embedded_gone(root: Path) -> DatabaseError:
    """The error of a store at ``root`` for which no embedded server runs."""
    return DatabaseError(EMBEDDED, f"none is running for {root}", _OWNER_ENDED)


def _gone(dsn: str) -> str:
    if is_embedded(dsn):
        return _OWNER_ENDED
    return "start it (`docker compose up -d --wait`), or check the address given with --postgres"


def _telling(error: Exception, fields: dict[str, Any]) -> str:
    """The one line of an error that says what happened, without what libpq says before and after it."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    first = next((line for line in str(primary or error).splitlines() if line.strip()), type(error).__name__)
    line = first.rpartition("failed: ")[2].removeprefix("FATAL:").strip()
    password = str(fields.get("password") or "")
    return line.replace(password, "***") if password else line


@contextmanager
def said_plainly(dsn: str, root: Path) -> Iterator[None]:
    """Turn what PostgreSQL raises within into this project's errors.

    Args:
        dsn: the server.
        root: the store's folder, for errors that are about the store.

    Raises:
        RoomError: the server's disk is full. StoreCorrupt: its pages are damaged. DatabaseError: all else.
    """
    try:
        yield
    except errors.DiskFull:
        raise RoomError(root, OSError(errno.ENOSPC, f"no room left at PostgreSQL ({describe(dsn)})")) from None
    except (errors.DataCorrupted, errors.IndexCorrupted) as error:
        raise StoreCorrupt(root, f"PostgreSQL: {_telling(error, parse(dsn))}") from None
    except psycopg.Error as error:
        raise DatabaseError(describe(dsn), _telling(error, parse(dsn)), _remedy(dsn, error)) from None


def _remedy(dsn: str, error: psycopg.Error) -> str:
    if isinstance(error, (errors.UndefinedTable, errors.UndefinedColumn)):
        return PACK_AGAIN
    if isinstance(error, errors.InsufficientPrivilege):
        return "grant the user the right to create and read tables, or name another user in --postgres"
    if isinstance(error, errors.LockNotAvailable):
        return "end the other session that uses the table, and try again"
    if isinstance(error, psycopg.OperationalError):
        return _gone(dsn)
    return PACK_AGAIN
