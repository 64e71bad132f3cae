"""``loadstone run``: from a name to a table."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fnmatch
import functools
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import experiment, machine, record
from bench.experiment import Cache, Cell, Experiment
from bench.record import RUNS, Record
from bench.reporting.report import ENVIRONMENT, EXPERIMENT, report, write
from bench.running import estimate, leftovers, resume
from bench.running.prepare import NotReady, Place, Preparation, Ready, check_names
from bench.running.progress import Watch, duration, packing, plain_console
from datasets import registry as datasets
from datasets.errors import RoomError, UsageError
from loaders.pack import slug
from train.protocol import protocol

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
    cache: Cache | None = None
    rounds: int | None = None
    limit: int | None = None
    threads: int | None = None
    device: str | None = None
    out: Path | None = None
    dry_run: bool = False
    resume: Path | None = None
    despite_differences: bool = False
    details: bool = False


def execute(name: str | None, place: Place, options: Options) -> int:
    """Run an experiment, or go on with one; returns the exit status."""
    console = plain_console()
    chosen = _resumed(name, options) if options.resume is not None else choose(_named(name), options)
    check_names(chosen)
    if options.dry_run:
        _show_cells(console, chosen, options)
        return 0
    if options.out is not None and (options.out / RUNS).exists():
        raise UsageError(f"{options.out} holds the records of another run; name another folder with --out, or say --resume")
    if options.resume is None:
        options = dataclasses.replace(options, device=machine.device(options.device or chosen.device, console.print))
    for found in leftovers.sweep():
        console.print(f"removed what killed runs left: {found}")
    preparation = Preparation(place, chosen, console.print, functools.partial(packing, console))
    with _terminated_as_interrupted(), preparation.cleanup:
        preparation.check()
        cells = [preparation.ready(cell) for cell in chosen.cells]
        chosen = chosen.model_copy(update={"cells": tuple(cell.cell for cell in cells)})
        folder = options.resume or _folder(options.out, chosen.name)
        with _alone(folder):
            return _measure(console, chosen, cells, folder, place, options, preparation.notes)


def _named(name: str | None) -> str:
    if name is None:
        raise UsageError("name an experiment (`loadstone list experiments`) or a TOML file, or say --resume FOLDER")
    return name


def _resumed(name: str | None, options: Options) -> Experiment:
    """The experiment of the folder that is to be resumed; nothing may cut or change it."""
    assert options.resume is not None
    kept = ("resume", "despite_differences", "dry_run", "details")
    changed = [each.name for each in dataclasses.fields(options) if each.name not in kept and getattr(options, each.name)]
    if name is not None or changed:
        extra = ", ".join(["EXPERIMENT"] * (name is not None) + [f"--{each}" for each in changed])
        raise UsageError(f"--resume runs what {options.resume}/{EXPERIMENT} says; leave out {extra}")
    return resume.planned(options.resume)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends an experiment as Ctrl-C does: what finished is reported, and nothing is left running."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run folder: two processes would write the same records into it.

    Raises:
        UsageError: another process holds it.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(leftovers.locked(folder))
        except BlockingIOError:
            raise UsageError(f"another process is running in {folder}; wait for its end, or name another folder") from None
        yield


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
        chosen = _changed(chosen, chosen.cells, limit=options.limit)
    if options.cache is not None:
        chosen = _changed(chosen, [cell for cell in chosen.cells if cell.mode != "compute"], cache=options.cache)
    return chosen


def _changed(chosen: Experiment, which: Sequence[Cell], **fields: object) -> Experiment:
    """The experiment with fields of some cells changed; cells that are then alike are one."""
    cells = (cell.model_copy(update=fields) if cell in which else cell for cell in chosen.cells)
    return chosen.model_copy(update={"cells": tuple(dict.fromkeys(cells))})


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
    from bench.running.runner import Runner

    then = {} if options.resume is None else resume.environment(folder)
    threads = int(then.get("threads") or options.threads or machine.cores())
    device = str(then.get("device") or options.device or "cpu")
    if (
        device == "cuda"
        and any(protocol(cell.protocol).precision == "bfloat16" for cell in chosen.cells)
        and machine.emulates_bfloat16()
    ):
        notes = [*notes, "bfloat16 is emulated by this GPU: +bf16 is slower here than float32 may be."]
        console.print(notes[-1])
    environment = machine.environment(place.stores, threads=threads, device=device, notes=notes)
    environment["protocols"] = {name: protocol(name).digest for name in sorted({cell.protocol for cell in chosen.cells})}
    earlier = [] if options.resume is None else resume.earlier(folder)
    if options.resume is None:
        write(folder / EXPERIMENT, experiment.dump(chosen).encode())
        _write_environment(folder, {**environment, "experiment": chosen.name})
    else:
        _check_same(folder, then, environment, resume.other_content(earlier, cells), options)
    ready = [cell for cell in cells if isinstance(cell, Ready)]
    missing = [cell for cell in cells if isinstance(cell, NotReady)]
    interrupted, full = False, None
    with Watch(console, [cell.cell for cell in ready], chosen.rounds) as watch:
        try:
            Runner(chosen, folder, threads, device, watch).run(ready, missing, earlier)
        except KeyboardInterrupt:
            interrupted = True
            click.echo(f"loadstone: interrupted; what finished is recorded in {folder}", err=True)
        except RoomError as error:
            full = error  # first the table of what there is
    if (folder / RUNS).exists():
        report(folder).show(console, details=options.details)
    elif not full:
        return INTERRUPTED
    if full:
        raise full
    return INTERRUPTED if interrupted else exit_status(record.read(folder), options.backend)


def _write_environment(folder: Path, environment: dict[str, Any]) -> None:
    write(folder / ENVIRONMENT, (json.dumps(environment, indent=1) + "\n").encode())


def _check_same(folder: Path, then: dict[str, Any], now: dict[str, Any], other: list[str], options: Options) -> None:
    """Refuse to go on where the machine, its software or the pictures are not what they were; if told to, note it.

    Raises:
        UsageError: something differs.
    """
    found = resume.differences(then, now) + other
    if not options.despite_differences:
        resume.refuse(folder, found)
    if found:
        notes = [*then.get("notes", []), f"Resumed, though {'; '.join(found)}."]
        _write_environment(folder, {**then, "notes": notes})


def exit_status(records: list[Record], asked: tuple[str, ...]) -> int:
    """0 where all that was asked for ran; a backend that is unavailable counts only if it was asked for by its very name.

    A run that failed and then, resumed, ended well is not lost.
    """
    well = resume.done(records)
    lost = [
        each.exit_status or 1
        for each in records
        if (each.status in ("failed", "timeout") and (each.cell, each.round) not in well)
        or (each.status == "unavailable" and each.cell.backend in asked)
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


def _show_cells(console: Console, chosen: Experiment, options: Options) -> None:
    for cell in chosen.cells:
        limit = f", {cell.limit:,} images" if cell.limit else ""
        console.print(f"{cell.label}  ({cell.protocol}{limit})")
    runs = len(chosen.cells) * chosen.rounds
    device = options.device or chosen.device or machine.device(None, console.print)
    about = duration(estimate.seconds(chosen, machine.cores(), device))
    console.print(f"{len(chosen.cells)} cells, {chosen.rounds} rounds: {runs} runs, about {about} once the stores are packed")
