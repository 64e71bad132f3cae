"""``loadstone run``: from a name to a table."""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from bench import estimate, experiment, machine, record
from bench.experiment import Experiment
from bench.prepare import NotReady, Place, Preparation, Ready, check_names
from bench.progress import Watch, duration, packing, plain_console
from bench.record import RUNS, Record
from bench.report import ENVIRONMENT, EXPERIMENT, report, write
from datasets import registry as datasets
from datasets.errors import RoomError, UsageError
from loaders.pack import slug

INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """The options of ``loadstone run`` that cut or change an experiment; see its help."""

    dataset: tuple[str, ...] = ()
    backend: tuple[str, ...] = ()
    codec: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    mode: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    rounds: int | None = None
    limit: int | None = None
    threads: int | None = None
    device: str | None = None
    out: Path | None = None
    dry_run: bool = False


def execute(name: str, place: Place, options: Options) -> int:
    """Run an experiment; returns the exit status."""
    console = plain_console()
    chosen = choose(name, options)
    check_names(chosen)
    if options.dry_run:
        _show_cells(console, chosen)
        return 0
    if options.out is not None and (options.out / RUNS).exists():
        raise UsageError(f"{options.out} holds the records of another run; name another folder with --out")
    options = dataclasses.replace(options, device=machine.device(options.device))
    preparation = Preparation(place, chosen, console.print, functools.partial(packing, console))
    with preparation.cleanup:
        preparation.check()
        cells = [preparation.ready(cell) for cell in chosen.cells]
        chosen = chosen.model_copy(update={"cells": tuple(cell.cell for cell in cells)})
        folder = _folder(options.out, chosen.name)
        return _measure(console, chosen, cells, folder, place, options, preparation.notes)


def choose(name: str, options: Options) -> Experiment:
    """The experiment as the options cut and change it.

    Raises:
        UnknownName: no such experiment, or a glob that no cell matches. ExperimentInvalid: the file is wrong.
    """
    cuts = {field: getattr(options, field) for field in ("backend", "codec", "engine", "model", "mode", "workers", "fetch")}
    chosen = _on_datasets(experiment.load(name), options.dataset).cut(**cuts)
    if not chosen.cells:
        raise UsageError(f"no cell of {name} is left by these options")
    if options.rounds is not None:
        chosen = chosen.model_copy(update={"rounds": options.rounds})
    if options.limit is not None:
        cells = (cell.model_copy(update={"limit": options.limit}) for cell in chosen.cells)
        chosen = chosen.model_copy(update={"cells": tuple(dict.fromkeys(cells))})
    return chosen


def _on_datasets(chosen: Experiment, asked: tuple[str, ...]) -> Experiment:
    """The experiment on those of its data sets that are asked for, and the same on those asked for that are not its own.

    Raises:
        UnknownName: neither one of its own, nor any other. UsageError: another's argument is wrong.
    """
    own = {cell.dataset for cell in chosen.cells}
    others = [name for name in dict.fromkeys(asked) if not fnmatch.filter(own, name)]
    for name in others:
        datasets.check_name(name)
    globs = [name for name in asked if name not in others]
    kept = chosen.cut(dataset=globs).cells if globs else ()
    return chosen.model_copy(update={"cells": (*kept, *chosen.on(others).cells)}) if asked else chosen


def _measure(
    console: Console,
    chosen: Experiment,
    cells: list[Ready | NotReady],
    folder: Path,
    place: Place,
    options: Options,
    notes: list[str],
) -> int:
    from bench.runner import Runner

    threads = options.threads or machine.cores()
    device = options.device or "cpu"
    environment = machine.environment(place.stores, threads=threads, device=device, notes=notes)
    write(folder / EXPERIMENT, experiment.dump(chosen).encode())
    write(folder / ENVIRONMENT, (json.dumps({**environment, "experiment": chosen.name}, indent=1) + "\n").encode())
    ready = [cell for cell in cells if isinstance(cell, Ready)]
    missing = [cell for cell in cells if isinstance(cell, NotReady)]
    interrupted = False
    with Watch(console, [cell.cell for cell in ready], chosen.rounds) as watch:
        try:
            Runner(chosen, folder, threads, device, watch).run(ready, missing)
        except KeyboardInterrupt:
            interrupted = True
            click.echo(f"loadstone: interrupted; what finished is recorded in {folder}", err=True)
    if not (folder / RUNS).exists():
        return INTERRUPTED
    report(folder).show(console)
    return INTERRUPTED if interrupted else exit_status(record.read(folder), options.backend)


def exit_status(records: list[Record], asked: tuple[str, ...]) -> int:
    """0 where all that was asked for ran; a backend that is unavailable counts only if it was asked for by its very name."""
    lost = [
        each.exit_status or 1
        for each in records
        if each.status in ("failed", "timeout") or (each.status == "unavailable" and each.cell.backend in asked)
    ]
    return lost[0] if lost and len(set(lost)) == 1 else int(bool(lost))


def _folder(out: Path | None, name: str) -> Path:
    """A new folder for results.

    Raises:
        RoomError: it can't be made.
    """
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            return out
        return _numbered(Path("results"), f"{slug(name)}-{datetime.datetime.now(datetime.UTC).date()}")
    except OSError as error:
        raise RoomError(out or Path("results"), error) from error


def _numbered(parent: Path, stem: str) -> Path:
    number = 1
    while True:
        try:
            (parent / f"{stem}-{number}").mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return parent / f"{stem}-{number}"


def _show_cells(console: Console, chosen: Experiment) -> None:
    for cell in chosen.cells:
        limit = f", {cell.limit:,} images" if cell.limit else ""
        console.print(f"{cell.label}  ({cell.protocol}{limit})")
    runs = len(chosen.cells) * chosen.rounds
    about = duration(estimate.seconds(chosen, machine.cores()))
    console.print(f"{len(chosen.cells)} cells, {chosen.rounds} rounds: {runs} runs, about {about} once the stores are packed")
