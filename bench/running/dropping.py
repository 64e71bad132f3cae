"""Dropping a store's pages, from the side of the runner: where a database of ours holds the store, it is stopped meanwhile."""

from __future__ import annotations

import dataclasses

from bench.running import cache
from bench.running.cache import Dropped
from bench.running.prepare import Ready


def drop_store(ready: Ready) -> Dropped:
    """Drop the pages of a cell's store, and check that they are gone; its run holds none of them, and waits.

    Raises:
        DatabaseError, Unavailable, RoomError: the server does not start again. StoreCorrupt: a file can't be opened.
    """
    if ready.server is not None:
        return Dropped(None, "the database server is not ours to stop")
    server = ready.database
    if server is None:
        return cache.drop(ready.root)
    if server.shared:
        return Dropped(None, "another process runs the database server", server.pid)
    server.stop()  # its own buffers go with it
    try:
        dropped = cache.drop(server.folder / "data")
    finally:
        server.start()
    return dataclasses.replace(dropped, server=server.pid)
