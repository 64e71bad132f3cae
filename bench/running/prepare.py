"""Before the first run: data sets opened, stores packed, the database started. What can't run is found out here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.experiment import Cell, Experiment
from bench.running import limits
from datasets import registry as datasets
from datasets.errors import DatasetMissing, DownloadFailed, Unavailable, UnknownName
from datasets.source import Source
from loaders import registry as backends
from loaders.manifest import CodecName, Content, Manifest
from loaders.pack import Progress, pack
from train.protocol import protocol
from train.registry import entry as model_entry

if TYPE_CHECKING:
    from loaders.postgres_server import EmbeddedServer

Say = Callable[[str], None]
"""Told what a user should know, a sentence at a time."""


@dataclass(frozen=True)
class Place:
    """Where things are on this machine.

    Attributes:
        data_dir: data sets under their publishers' names. stores: packed stores.
        postgres: the DSN of the user's own server; None is the embedded one.
        allow_unverified: read data sets that can't be shown to be the publisher's.
    """

    data_dir: Path
    stores: Path
    postgres: str | None = None
    allow_unverified: bool = False


@dataclass(frozen=True)
class Ready:
    """A cell that can be run: its store, what the record says of it, and the server of ours that holds it, if any."""

    cell: Cell
    root: Path
    server: str | None
    manifest: Manifest
    database: EmbeddedServer | None = None


@dataclass(frozen=True)
class NotReady:
    """A cell that can't be run here, and why."""

    cell: Cell
    dataset: str
    error: Unavailable


def check_names(experiment: Experiment) -> None:
    """Refuse names that nothing answers to, before anything is read or written.

    Raises:
        UnknownName: a data set, backend, path, model or protocol; carries the nearest right one.
        UsageError: a data set's argument is missing, unwanted or wrong.
    """
    for cell in experiment.cells:
        datasets.check_name(cell.dataset)
        protocol(cell.protocol)
        if cell.model is not None:
            model_entry(cell.model)
        if cell.mode != "limit":
            backends.check_name(cell.backend_name, cell.path)
        elif cell.backend not in limits.PATHS:
            raise UnknownName("limit", cell.backend, limits.PATHS)


def open_data(spec: str, place: Place, experiment: Experiment, say: Say) -> Source:
    """A data set; where the experiment allows it, downloaded if it is missing, and stood in for if that fails too.

    Raises:
        DataError: it can't be used. RoomError: no room for the download.
    """
    try:
        return datasets.open_source(spec, place.data_dir, allow_unverified=place.allow_unverified)
    except DatasetMissing:
        stand_in = datasets.stand_in(spec) if experiment.stand_in else None
        if stand_in is None or datasets.is_there(spec, place.data_dir):  # there, but not whole
            raise
        say(f"{spec} is not in {place.data_dir}: downloading it from its publisher")
        try:
            return datasets.download(spec, place.data_dir)
        except DownloadFailed as error:
            say(f"{error}. Using {stand_in.info.name} instead: synthetic pictures of the same shape, not the real data set")
            return stand_in


@dataclass
class Preparation:
    """Makes cells ready, each data set opened once and each store packed once.

    ``cleanup`` holds what must be ended after the last run; ``notes`` what the environment should remember.
    """

    place: Place
    experiment: Experiment
    say: Say
    packing: Callable[[str, int], contextlib.AbstractContextManager[Progress]]
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    notes: list[str] = field(default_factory=list)
    _sources: dict[str, Source] = field(default_factory=dict)
    _stores: dict[tuple[str, str, CodecName], Path] = field(default_factory=dict)
    _embedded: EmbeddedServer | None = None

    def check(self) -> None:
        """Open every data set, and reach the user's own server, before the first store is packed: that may take long.

        Raises:
            DataError: a data set or the server can't be used.
        """
        for cell in self.experiment.cells:
            self.source(cell.dataset)
        if self.place.postgres is not None and any(cell.backend_name == "postgres" for cell in self.experiment.cells):
            from loaders.postgres_connection import connect

            connect(self.place.postgres).close()

    def ready(self, cell: Cell) -> Ready | NotReady:
        """The cell with its codec resolved and its store packed, or the reason why it can't run."""
        info = self.source(cell.dataset).info
        codec = cell.codec or info.codec
        if cell.mode != "compute":  # which has no way of loading
            cell = cell.model_copy(update={"codec": codec})
        try:
            if cell.mode == "limit" and (why := limits.unfit(cell.backend, codec, info.shape)):
                raise Unavailable(cell.backend, why, "")
            root = self._store(cell, codec)
            return Ready(cell, root, self._server_of(cell), Manifest.read(root), self._database_of(cell))
        except Unavailable as error:
            return NotReady(cell, info.name, error)

    def source(self, spec: str) -> Source:
        """A data set, opened once."""
        if spec not in self._sources:
            self._sources[spec] = open_data(spec, self.place, self.experiment, self.say)
        return self._sources[spec]

    def _store(self, cell: Cell, codec: CodecName) -> Path:
        key = (cell.dataset, cell.backend_name, codec)
        kind = backends.store_class(cell.backend_name)
        backends.check_engine(kind, cell.engine)
        if cell.limit is not None and kind.whole:
            raise Unavailable(
                cell.backend_name, "it reads a split whole, so a limited epoch could not be timed", "leave out limit"
            )
        if key not in self._stores:
            self._stores[key] = self._pack(*key, self._server_of(cell))
        return self._stores[key]

    def _pack(self, dataset: str, backend: str, codec: CodecName, server: str | None) -> Path:
        found = backends.availability(backend)
        if not found.ok:
            raise Unavailable(backend, found.reason, found.remedy)
        source = self.source(dataset)
        if reason := backends.store_class(backend).refuses(Content.of(source.info, codec)):
            raise Unavailable(backend, reason)
        with self.packing(f"packing {source.info.name} as {backend}, {codec}", sum(source.info.counts.values())) as progress:
            return pack(source, backend, self.place.stores, codec=codec, server=server, progress=progress).root

    def _server_of(self, cell: Cell) -> str | None:
        """The user's server for a cell that needs one; None where the embedded one, started here, serves it."""
        if cell.backend_name != "postgres":
            return None
        if self.place.postgres is None and self._embedded is None:
            self._embedded = self._start_embedded()
        return self.place.postgres

    def _database_of(self, cell: Cell) -> EmbeddedServer | None:
        return self._embedded if cell.backend_name == "postgres" and self.place.postgres is None else None

    def _start_embedded(self) -> EmbeddedServer:
        from loaders.postgres_server import EmbeddedServer

        server = self.cleanup.enter_context(EmbeddedServer(self.place.stores))
        if server.note:
            self.say(server.note)
            self.notes.append(server.note)
        return server
