"""``loadstone list`` and ``loadstone info``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from rich.table import Table

from bench import experiment, machine
from bench.running.prepare import Place
from bench.running.progress import plain_console
from datasets import registry as datasets
from datasets.errors import UnknownName
from loaders import registry as backends
from train.protocol import PROTOCOLS
from train.registry import MODELS

Row = tuple[str, ...]

LOG_WIDTH = 160


def show(what: str | None, place: Place) -> None:
    """Print one list, or all of them.

    Raises:
        UnknownName: there is no such list.
    """
    if what is not None and what not in LISTS:
        raise UnknownName("list", what, LISTS)
    for name in [what] if what else LISTS:
        _print(name, LISTS[name](place))


def _print(title: str, rows: Iterable[Row]) -> None:
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    listed = list(rows)
    for _ in listed[0]:
        table.add_column(overflow="fold")
    for row in listed:
        table.add_row(*row)
    console = plain_console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(table, soft_wrap=False)


def _datasets(place: Place) -> Iterable[Row]:
    for name, entry in datasets.SOURCES.items():
        if entry.argument:
            yield f"{name}:{entry.argument}", entry.what, ""
        else:
            there = datasets.is_there(name, place.data_dir)
            yield name, entry.what, "found" if there else f"not found; `loadstone download {name}`"


def _backends(_: Place) -> Iterable[Row]:
    for name, entry in backends.BACKENDS.items():
        found = backends.availability(name)
        remedy = f"; {found.remedy}" if found.remedy else ""
        yield name, entry.words, "available" if found.ok else f"unavailable: {found.reason}{remedy}"


def _models(_: Place) -> Iterable[Row]:
    return ((name, entry.description, entry.paper) for name, entry in MODELS.items())


def _protocols(_: Place) -> Iterable[Row]:
    return (
        (name, recipe.description, f"{recipe.epochs} epochs, batch {recipe.batch_size}") for name, recipe in PROTOCOLS.items()
    )


def _experiments(_: Place) -> Iterable[Row]:
    for name in experiment.names():
        found = experiment.load(name)
        yield name, found.description, f"{len(found.cells)} cells, {found.rounds} rounds"


LISTS: dict[str, Callable[[Place], Iterable[Row]]] = {
    "datasets": _datasets,
    "backends": _backends,
    "models": _models,
    "protocols": _protocols,
    "experiments": _experiments,
}


def show_machine(place: Place) -> None:
    """Print what records say of this machine."""
    facts = machine.environment(place.stores, threads=machine.cores(), device=machine.device(None, click.echo))
    rows = [(name, str(value)) for name, value in facts.items() if name not in ("versions", "notes")]
    rows += [("", f"{library} {version}") for library, version in facts["versions"].items()]
    rows += [("data sets", str(place.data_dir)), ("stores", str(place.stores))]
    _print("this machine", rows)
