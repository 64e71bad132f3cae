"""The contract of an engine: it turns a reader, and what an epoch asks for, into batches; and the table of engines."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from datasets.errors import UnknownName, UsageError
from loaders.augment import Augment
from loaders.order import Indices
from loaders.store import Reader

ENGINES = {
    "native": "loaders.engines.native:NativeEngine",
    "stream": "loaders.engines.stream:StreamEngine",
    "threads": "loaders.engines.threads:ThreadsEngine",
    "torch": "loaders.engines.torch:TorchEngine",
}
FETCHES = ("item", "batch")


class Batch(NamedTuple):
    """Pictures and labels in the order asked for.

    Attributes:
        images: uint8 (B, C, H, W), channels-last strides: a view of the (B, H, W, C) that the reader filled.
        labels: int64 (B,).
        indices: int64 (B,), places in the split, from which per-sample draws are made.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: Indices


class Key(NamedTuple):
    """What is asked for a batch: ``indices`` is int64 (B,)."""

    epoch: int
    indices: Indices


@dataclass(frozen=True)
class Plan:
    """How a split is read; see ``loaders.loader``."""

    batch_size: int
    seed: int
    shuffle: bool
    training: bool
    engine: str
    fetch: str
    workers: int
    limit: int | None
    image_size: int
    pin_memory: bool
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise UsageError(f"workers must be at least 0, not {self.workers}")
        if self.engine not in ENGINES:
            raise UnknownName("engine", self.engine, ENGINES)
        if self.fetch not in FETCHES:
            raise UnknownName("fetch", self.fetch, FETCHES)


class Engine(ABC):
    """Turns keys into batches, in their order.

    Args:
        reader: of the split; the engine closes it.
        shape: (height, width, channels) of every picture delivered.
        plan: how it is read.
    """

    def __init__(self, reader: Reader[Any], shape: tuple[int, int, int], plan: Plan) -> None:
        self.reader, self.shape, self.plan = reader, shape, plan

    @abstractmethod
    def epoch(self, keys: Iterator[Key]) -> Generator[Batch]:
        """One batch a key, in the order of the keys; may be left early, and then nothing read ahead turns up later.

        Raises:
            LoadstoneError: what reading raised, its parts (a sample's index, a store's folder) kept.
        """

    @property
    def path_taken(self) -> str:
        """The code path that serves the reads, and what decodes."""
        return "; ".join(filter(None, (self.reader.path_taken, self.reader.decoder)))

    def close(self) -> None:
        """Stop workers and threads, and release the reader's handles."""
        self.reader.close()


def engine_class(name: str) -> type[Engine]:
    """The class of an engine, imported at first use.

    Raises:
        UnknownName: no such engine.
    """
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    module, _, attribute = ENGINES[name].partition(":")
    found: type[Engine] = getattr(importlib.import_module(module), attribute)
    return found
