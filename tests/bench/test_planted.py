"""A slow-down planted on purpose: it slows, says so, and changes nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bench.running.planted import PlantedStore
from datasets.registry import open_source
from loaders.order import Draws
from loaders.pack import pack
from loaders.store import Store

DATA = "synthetic:train=64,val=16,size=16,classes=4"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("stores")
    return pack(open_source(DATA, root), "mmap", root)


def test_the_pixels_and_labels_are_the_store_s(store: Store) -> None:
    """Whether read here or, by pickle, in another process; and the path taken says what was done."""
    indices = np.array([5, 1, 5, 63])
    out, expected = (np.zeros((4, 16, 16, 3), np.uint8) for _ in range(2))
    store.reader("train").read(indices, expected, Draws(0, 0, True))
    reader = pickle.loads(pickle.dumps(PlantedStore(store, 0.05).reader("train")))
    reader.read(indices, out, Draws(0, 0, True))
    assert (out == expected).all()
    assert (reader.labels == store.reader("train").labels).all()
    assert bytes(reader.payloads(indices)[0]) == bytes(store.reader("train").payloads(indices)[0])
    assert reader.path_taken.endswith(", each read slowed by 5 % on purpose")
    reader.close()


def test_each_read_waits_for_its_fraction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that jumps: of a read of 2 s, half is waited for, and not a reading of the clock longer."""
    times = iter([10.0, 12.0, 12.5, 12.9, 13.0, 99.0])
    monkeypatch.setattr("bench.running.planted.time.perf_counter", lambda: next(times))
    reader = PlantedStore(store, 0.5).reader("train")
    reader.read(np.array([0]), np.zeros((1, 16, 16, 3), np.uint8), Draws(0, 0, True))
    assert next(times) == 99.0
    reader.close()
