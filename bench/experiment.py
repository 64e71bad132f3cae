"""Experiments: cells and a number of rounds, as a TOML file."""

from __future__ import annotations

import fnmatch
import itertools
import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from bench.target import Target
from datasets.errors import ExperimentInvalid, UnknownName
from loaders.manifest import CodecName, Frozen
from loaders.registry import BACKENDS

SHIPPED = Path(__file__).parent / "experiments"

Mode = Literal["train", "load", "compute", "limit"]
Engine = Literal["torch", "threads", "native", "stream"]
Fetch = Literal["item", "batch"]
Cache = Literal["warm", "cold"]


class Cell(Frozen):
    """One combination that is run.

    Attributes:
        dataset: as asked for: ``cifar10``, ``image_folder:photos``, ...
        backend: ``name``, or ``name:path`` where a code path is asked for by name. ``memory`` in ``compute``. In ``limit``
            what is measured: ``copy``, ``gather`` or ``decode``, see ``bench.running.limits``.
        codec: None is the data set's own.
        fetch: ``item`` one sample a call, ``batch`` one call a batch.
        workers: processes beside the one that trains; 0 reads in it. Of ``threads`` threads, and 0 is their number by rule;
            of ``limit`` threads, and 0 is one.
        model: None in ``load`` and ``limit``.
        cache: ``warm``, the store was read through before; ``cold``, its pages are dropped before each epoch.
        limit: training images of an epoch, the same ones in every run; None is all.
        planted: the fraction by which every read is slowed on purpose, and alias: what tells equal cells apart. Both are for
            ``loadstone calibrate``.
    """

    dataset: str
    backend: str
    codec: CodecName | None = None
    engine: Engine = "torch"
    fetch: Fetch = "batch"
    workers: int = pydantic.Field(default=0, ge=0, le=64)
    model: str | None = None
    protocol: str
    mode: Mode
    cache: Cache = "warm"
    limit: int | None = pydantic.Field(default=None, ge=1)
    planted: float = pydantic.Field(default=0.0, ge=0.0, le=10.0)
    alias: str = ""

    @property
    def backend_name(self) -> str:
        """The registry's key of the store that is read."""
        return "memory" if self.mode == "limit" else self.backend.partition(":")[0]

    @property
    def path(self) -> str | None:
        """The code path asked for by name, or None."""
        return self.backend.partition(":")[2] or None

    @property
    def loading(self) -> tuple[str, str | None, str, str, int, str]:
        """How batches come: what is compared. Equal for the ``train`` and ``load`` cells of one way of loading."""
        return (self.backend, self.codec, self.engine, self.fetch, self.workers, self.cache)

    @property
    def label(self) -> str:
        """A short name for progress and errors."""
        parts = [self.dataset, self.backend, self.codec or "", self.model or "", self.mode, self.alias]
        if self.engine != "torch":
            parts.append(self.engine)
        if self.fetch == "item":
            parts.append("by item")
        if self.workers:
            parts.append(f"{self.workers} worker{'' if self.workers == 1 else 's'}")
        if self.cache == "cold":
            parts.append("cold")
        return " ".join(part for part in parts if part)


class Grid(Frozen):
    """Keys of a TOML file that make cells: each may hold one value or a list, and lists multiply."""

    datasets: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    codecs: tuple[CodecName, ...] | None = None
    engines: tuple[Engine, ...] = ("torch",)
    fetch: tuple[Fetch, ...] = ("batch",)
    workers: tuple[int, ...] = (0,)
    models: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ("train",)
    cache: tuple[Cache, ...] = ("warm",)
    protocol: str = "quick"
    limit: int | None = pydantic.Field(default=None, ge=1)

    @pydantic.field_validator(
        "datasets", "backends", "codecs", "engines", "fetch", "workers", "models", "modes", "cache", mode="before"
    )
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str | int) else value

    def cells(self) -> Iterable[Cell]:
        """The grid's cells. ``load`` and ``limit`` have no model, ``compute`` no way of loading; none is repeated for it."""
        for dataset, mode in itertools.product(self.datasets, self.modes):
            if mode == "compute":
                for trained in self.models:
                    yield Cell(
                        dataset=dataset, backend="memory", model=trained, mode=mode, protocol=self.protocol, limit=self.limit
                    )
                continue
            models: Sequence[str | None] = self.models if mode == "train" else (None,)
            codecs = self.codecs or (None,)
            # A limit has no engine, no way of asking and no cache.
            ways = (self.engines, self.fetch) if mode != "limit" else (("torch",), ("batch",))
            caches = self.cache if mode != "limit" else ("warm",)
            loading = itertools.product(self.backends, codecs, *ways, self.workers, caches)
            for model, (backend, codec, engine, fetch, workers, cache) in itertools.product(models, list(loading)):
                engine, fetch, workers = self._way(backend, engine, fetch, workers)
                yield Cell(
                    dataset=dataset,
                    backend=backend,
                    codec=codec,
                    engine=engine,
                    fetch=fetch,
                    workers=workers,
                    model=model,
                    protocol=self.protocol,
                    mode=mode,
                    cache=cache,
                    limit=self.limit,
                )

    def _way(self, backend: str, engine: Engine, fetch: Fetch, workers: int) -> tuple[Engine, Fetch, int]:
        """How a backend is read: one with an engine of its own by that, in one way, unless the grid names that engine."""
        own = _OWN_ENGINES.get(backend.partition(":")[0])
        if own is None or own in self.engines:
            return engine, fetch, workers
        return own, "batch", 0


_OWN_ENGINES: dict[str, Any] = {name: entry.engine for name, entry in BACKENDS.items() if entry.engine}


class Experiment(Frozen):
    """Cells and a number of rounds.

    Attributes:
        cells: in the order of the file, none twice.
        rounds: every cell once a round.
        seed: of the order of cells; round r trains with seed + r.
        timeout: seconds that a run may take.
        repeats: how often a run is made again beside which the machine was disturbed (``bench.running.noise``), at most.
        device: ``cuda`` where it makes no sense on a CPU: without a GPU it is refused, unless another is asked for.
        stand_in: use synthetic data where a data set is neither there nor downloadable.
        targets: what its figures are expected to reach; `loadstone targets` judges them.
    """

    name: str
    description: str = ""
    cells: tuple[Cell, ...]
    rounds: int = pydantic.Field(default=5, ge=1)
    seed: int = pydantic.Field(default=0, ge=0)
    timeout: float = pydantic.Field(default=3600.0, gt=0)
    repeats: int = pydantic.Field(default=2, ge=0)
    device: Literal["cuda"] | None = None
    stand_in: bool = False
    targets: tuple[Target, ...] = ()

    @pydantic.field_validator("targets")
    @classmethod
    def _fields_of_cells(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        for target in targets:
            for field in (*target.cell, *target.over):
                if field not in Cell.model_fields:
                    raise ValueError(str(UnknownName("field of a cell", field, Cell.model_fields)))
        return targets

    def cut(self, **globs: Sequence[str]) -> Experiment:
        """Keep the cells whose fields match: ``cut(backend=("gpu_*",), mode=("load",))``.

        A field that has no meaning in a cell's mode cuts no such cell: ``compute`` stays for any backend.

        Raises:
            UnknownName: a glob that no cell matches.
        """
        kept = self.cells
        for field, patterns in globs.items():
            judged = [cell for cell in self.cells if not _spared(cell, field)]
            for pattern in patterns:
                if not any(matches(cell, field, [pattern]) for cell in judged):
                    raise UnknownName(field, pattern, {_word(cell, field) for cell in judged})
            if patterns:
                kept = tuple(cell for cell in kept if _spared(cell, field) or matches(cell, field, patterns))
        return self.model_copy(update={"cells": kept})

    def on(self, datasets: Sequence[str]) -> Experiment:
        """The same comparisons, on other data sets: every combination that is run on any of its own."""
        cells = (cell.model_copy(update={"dataset": dataset}) for dataset in datasets for cell in self.cells)
        return self.model_copy(update={"cells": tuple(dict.fromkeys(cells))})


CALIBRATION = frozenset({"planted", "alias"})
"""Fields of a cell that no experiment's file can give, and no table shows."""

OWN_CODEC = "own"
"""What a glob calls the codec that a cell leaves to the data set."""

_SPARED = {
    "compute": ("backend", "codec", "engine", "fetch", "workers", "cache"),
    "load": ("model",),
    "train": (),
    "limit": ("model", "engine", "fetch", "cache"),
}


def _word(cell: Cell, field: str) -> str:
    value = getattr(cell, field)
    return OWN_CODEC if value is None else str(value)


def matches(cell: Cell, field: str, patterns: Sequence[str]) -> bool:
    """Whether a field of a cell fits any of these globs."""
    return any(fnmatch.fnmatchcase(_word(cell, field), pattern) for pattern in patterns)


def _spared(cell: Cell, field: str) -> bool:
    """Fields that have no meaning in a mode do not cut its cells."""
    return field in _SPARED[cell.mode]


_OWN = ("name", "description", "rounds", "seed", "timeout", "repeats", "device", "stand_in", "targets")


def parse(text: str, where: str) -> Experiment:
    """Read an experiment's TOML.

    Raises:
        ExperimentInvalid: it is not TOML, a key is unknown, or a value is wrong; names the key.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentInvalid(where, f"not TOML: {error}") from None
    extra = table.pop("cells", [])
    if not (isinstance(extra, list) and all(isinstance(more, dict) for more in extra)):
        raise ExperimentInvalid(where, "cells: write each as a table of its own, under [[cells]]")
    own = {key: table.pop(key) for key in _OWN if key in table}
    own.setdefault("name", Path(where).stem)
    try:
        cells = [cell for grid in [table, *({**table, **more} for more in extra)] for cell in Grid(**grid).cells()]
        experiment = Experiment(cells=tuple(dict.fromkeys(cells)), **own)
    except pydantic.ValidationError as error:
        raise ExperimentInvalid(where, _first_problem(error)) from None
    if not experiment.cells:
        raise ExperimentInvalid(where, "no cells: give at least datasets, backends and, to train, models")
    return experiment


def _first_problem(error: pydantic.ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']}"
    if key in _OWN:
        return f"{key} is the whole experiment's: write it above the first [[cells]]"
    return str(UnknownName("key", key, {*Grid.model_fields, *_OWN, "cells"}))


def names() -> list[str]:
    """The experiments that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name_or_path: str) -> Experiment:
    """A shipped experiment by name, or any TOML file by path.

    Raises:
        UnknownName: neither. ExperimentInvalid: the file is no experiment.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SHIPPED / f"{name_or_path}.toml"
        if not path.exists():
            raise UnknownName("experiment", name_or_path, names())
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ExperimentInvalid(str(path), error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise ExperimentInvalid(str(path), "not TOML: it is not UTF-8 text") from None
    return parse(text, str(path))


def dump(experiment: Experiment) -> str:
    """The experiment as TOML that ``parse`` reads back as the same cells: what was really run."""
    keys = set(Cell.model_fields) - CALIBRATION
    lines = [f"{key} = {_toml(value)}" for key in _OWN if (value := getattr(experiment, key)) not in ("", None, ())]
    for cell in experiment.cells:
        lines.append("\n[[cells]]")
        fields = cell.model_dump(include=keys, exclude_none=True)
        lines += [f"{_PLURAL.get(key, key)} = {_toml(value)}" for key, value in fields.items()]
    return "\n".join(lines) + "\n"


_PLURAL = {
    "dataset": "datasets",
    "backend": "backends",
    "codec": "codecs",
    "engine": "engines",
    "model": "models",
    "mode": "modes",
}


def _toml(value: Any) -> str:
    if isinstance(value, Target):
        return _toml(value.model_dump(exclude_defaults=True))
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
