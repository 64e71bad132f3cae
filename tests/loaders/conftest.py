"""Stores that several test modules read, each packed once; one embedded PostgreSQL; one other process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from loaders.pack import open_store, pack
from loaders.postgres_server import EmbeddedServer
from loaders.store import Store
from tests.loaders.contract import Elsewhere
from tests.loaders.sources import Expected
from train.loop import prepare_torch

Packed = Callable[[str, str, Expected], Store]


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    """A process that was never forked from this one."""
    with Elsewhere() as process:
        yield process


@pytest.fixture(scope="session")
def stores() -> Iterator[Path]:
    """A folder of stores that the embedded server's account can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "stores"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server(stores: Path) -> Iterator[EmbeddedServer]:
    """The embedded server of ``stores``."""
    with EmbeddedServer(stores) as running:
        yield running


@pytest.fixture(scope="session")
def packed(request: pytest.FixtureRequest, stores: Path) -> Packed:
    """``packed(backend, kind, expected)``: the store, ``backend`` being ``hdf5`` or, with a code path, ``hdf5:h5py``."""

    def make(backend: str, kind: str, wanted: Expected) -> Store:
        name, _, path = backend.partition(":")
        if name == "postgres":
            request.getfixturevalue("server")
        store = pack(wanted.source, name, stores / kind, codec=wanted.codec)
        return open_store(store.root, path=path or None)

    return make


@pytest.fixture
def _torch_as_in_a_run() -> Iterator[None]:
    """One thread and deterministic operations, and everything as it was afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    prepare_torch(1, torch.device("cpu"))
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
