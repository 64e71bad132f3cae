"""A group of rows in words: labels, caption and notes. The numbers come from ``bench.reporting.summary``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench import numbers
from bench.experiment import Cell
from bench.reporting.checks import Doubt
from bench.reporting.summary import Row
from bench.reporting.ties import DIFFERENCE
from bench.stats import MOST_ROUNDS, scaled

COLD = "guest-cold"  # pages dropped and checked by this kernel; a hypervisor's cache below it may still serve
WAYS = ("codec", "engine", "fetch", "workers", "cache")


@dataclass(frozen=True)
class Setting:
    """Where and how an experiment ran, as far as it is known; any part may be empty."""

    experiment: str = ""
    machine: str = ""
    torch: str = ""
    notes: tuple[str, ...] = ()


def setting(environment: Mapping[str, object]) -> Setting:
    """From ``environment.json``; what is missing or of another kind is left out."""
    notes = environment.get("notes")
    experiment, machine, torch = (str(environment.get(key) or "") for key in ("experiment", "machine", "torch"))
    return Setting(experiment, machine, torch, tuple(map(str, notes)) if isinstance(notes, list) else ())


def way(cell: Cell, field: str) -> str:
    """One part of a way of loading, as tables show it."""
    value = getattr(cell, field)
    if field == "cache" and value == "cold":
        return COLD
    if field == "workers" and cell.engine == "threads" and not value:
        return "by rule"
    return "own" if value is None else str(value)


def varying(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The parts of the way of loading in which these cells differ."""
    every = list(cells)
    return tuple(field for field in WAYS if len({way(cell, field) for cell in every}) > 1)


def columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """The parts of the way of loading that a table of these rows needs a column for: those in which rows that ran differ."""
    every = list(rows)
    return varying(row.cell for row in [row for row in every if row.epoch is not None] or every)


def labels(cells: Iterable[Cell]) -> dict[Cell, str]:
    """Names that tell these cells apart: the backend, and in brackets what differs among cells of one backend."""
    every = list(cells)
    alike: dict[str, list[Cell]] = {}
    for cell in every:
        alike.setdefault(cell.backend, []).append(cell)
    differing = {field for group in alike.values() for field in varying(group)}
    fields = [field for field in WAYS if field in differing]
    named = {cell: _parts(cell, fields) for cell in every}
    return {cell: f"{cell.backend} ({parts})" if parts else cell.backend for cell, parts in named.items()}


def ways(rows: Sequence[Row]) -> dict[Cell, str]:
    """A name for every way of loading that tells it apart within its data set; the same way has one name in all."""
    found: dict[Cell, str] = {}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        found |= labels(row.cell for row in rows if row.dataset == dataset and row.cell.mode in ("train", "load"))
    return {
        cell: f"{name} (RAM)" if cell.backend_name == "memory" and "(" not in name else name for cell, name in found.items()
    }


def variant(cell: Cell, cells: Iterable[Cell]) -> str:
    """What a cell's name says besides the backend: a code path asked for, and what differs among its backend's ``cells``."""
    name = labels(other for other in cells if other.dataset == cell.dataset)[cell]
    return ", ".join(part for part in (cell.path, name.partition(" (")[2].removesuffix(")")) if part) or "as it comes"


def _parts(cell: Cell, fields: Iterable[str]) -> str:
    return ", ".join(_part(cell, field) for field in fields)


def _part(cell: Cell, field: str) -> str:
    text = way(cell, field)
    if field == "codec":
        return f"{text} codec" if text == "own" else text
    if field == "workers":
        return "workers by rule" if text == "by rule" else f"{text} worker{'' if text == '1' else 's'}"
    return text


def caption(rows: Sequence[Row], place: Setting, compute: Row | None = None) -> tuple[str, ...]:
    """What was compared, what the clock covered, and what all rows share."""
    run = [part for part in (place.experiment,) if part] + [f"protocol {rows[0].cell.protocol}", *conditions(rows, place)]
    lines = (" · ".join(run), _covered(rows), _shared(rows, compute))
    return tuple(line for line in lines if line)


def conditions(rows: Sequence[Row], place: Setting) -> list[str]:
    """Rounds, cache, machine, versions."""
    rounds = max(row.rounds for row in rows)
    caches = "/".join(sorted({way(row.cell, "cache") for row in rows}))
    machine = [place.machine, *sorted({row.device for row in rows if row.device not in ("", "cpu")})]
    threads = sorted({row.threads for row in rows if row.threads})
    parts = [f"{rounds} round{'' if rounds == 1 else 's'}", f"{caches} page cache", *machine]
    parts += [f"{'/'.join(map(str, threads))} thread{'' if threads == [1] else 's'}"] if threads else []
    parts += [f"torch {place.torch}"] if place.torch else []
    return [part for part in parts if part]


def title(row: Row) -> str:
    """The name of a row's group."""
    what = row.cell.model or ("limits of the machine" if row.cell.mode == "limit" else "loading only")
    return f"{row.dataset} · {what}" + (f" · {COLD}" if row.cell.cache == "cold" else "")


def _covered(rows: Sequence[Row]) -> str:
    ran = [row for row in rows if row.train_images is not None]
    train = bool(rows[0].cell.model)
    what = "epoch" if train else "pass"
    images = f"{ran[0].train_images:,} training images" if ran else "training images"
    if rows[0].cell.limit is not None:
        images += f" (limit {rows[0].cell.limit:,})"
    evaluated = f", on {ran[0].val_images:,} validation images" if ran and ran[0].val_images is not None else ""
    clock = f"{what}: {images}, the first {what} not counted"
    if train:
        clock += f"; evaluation{evaluated}, not counted"
    return clock + "; [95 % interval over processes]"


def _shared(rows: Sequence[Row], compute: Row | None) -> str:
    cells = [row.cell for row in rows]
    fields = [field for field in WAYS if field != "cache" and field not in columns(rows)]
    same = _parts(next((row.cell for row in rows if row.epoch is not None), cells[0]), fields)
    parts = [f"all rows: {same}"] if same else []
    if compute is not None and compute.epoch is not None:
        parts.append(f"compute alone, its batches in place: {numbers.interval(compute.epoch)} s")
    alone = next((row.held.alone for row in rows if row.held.alone), None)
    if alone is not None:
        parts.append(f"the model alone: {numbers.interval(scaled(alone, 1e6))} µs an image")
    return "; ".join(parts)


def not_run(row: Row) -> str:
    """``not run: reason``, the reason as the error had it."""
    kind = "" if row.status in ("unavailable", "ok") else f"{row.status}: "
    return f"not run: {kind}{row.reason or 'no measured epoch'}"


def notes(rows: Sequence[Row], others: Sequence[Row], place: Setting) -> list[str]:
    """What stands below a table: marks, rows with lost rounds, doubts, and what the machine's owner should know.

    ``rows`` are the table's, ``others`` those that it shows a figure of: ``load`` and ``compute``.
    """
    corrected = "at 95 %, corrected for all pairs of the table"
    found = [f"= not distinguishable from the row above, {corrected}"] if any(row.tied_above for row in rows) else []
    if max(row.runs for row in rows) == 1:
        found.append("One run a row: no intervals, and no row can be told from another; more rounds are needed.")
    names = _names(rows, others)
    said = {(row.cell.loading, row.reason) for row in rows if row.epoch is None}
    for row in (*rows, *others):
        if row.epoch is None and row in others:
            if (row.cell.loading, row.reason) in said:
                continue
            found.append(f"{names[row.cell]}: {not_run(row)}")
        elif row.epoch is not None and row.runs < row.rounds:
            lost = f"; lost: {row.reason}" if row.reason else ""
            found.append(f"{names[row.cell]}: {row.runs} of {row.rounds} rounds{lost}")
    found += [f"{names[row.cell]} was not cold: {row.not_cold}." for row in rows if row.not_cold]
    found += _disturbed(rows, names)
    found += _declared(rows, names)
    doubts = [(names[row.cell], doubt) for row in (*rows, *others) for doubt in row.doubts]
    return found + _slowed(rows, names) + _too_few(rows, names) + _doubts(doubts, names) + list(place.notes)


def _slowed(rows: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    slow = [f"{names[row.cell]} ({numbers.slowdown(row.held.slowdown)})" for row in rows if row.held.slowed]
    return [f"Slowed step: beside loading the model itself takes longer than alone: {', '.join(slow)}."] if slow else []


def _too_few(rows: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    """After pyperf: no verdict that the data can't carry, and what would carry it."""
    few = [f"{names[row.cell]} {rounds_needed(row.rounds_needed)}" for row in rows if row.rounds_needed]
    if not few:
        return []
    what = f"Too few rounds for so wide a spread to tell a difference of {100 * DIFFERENCE:g} % from the fastest format"
    return [f"{what}; rounds that a new experiment would need: {', '.join(few)} (power 90 %)."]


def rounds_needed(count: int) -> str:
    """A number of rounds that a new experiment would need; an estimate, since the spread is one."""
    return f"over {MOST_ROUNDS:,}" if count >= MOST_ROUNDS else f"about {count:,}"


def _disturbed(rows: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    those = [f"{names[row.cell]} ({row.disturbed} of {row.runs})" for row in rows if row.disturbed]
    return [f"Disturbed, runs beside which a fixed piece of work was slow each time: {', '.join(those)}."] if those else []


def _names(rows: Sequence[Row], others: Sequence[Row]) -> dict[Cell, str]:
    """Labels of a table's rows, and of the other rows it shows figures of by the row that loads in the same way."""
    names = labels(row.cell for row in rows)
    by_loading = {row.cell.loading: names[row.cell] for row in rows}
    for row in others:
        loads = row.cell.mode == "load"
        names[row.cell] = f"load only, {by_loading.get(row.cell.loading, row.cell.backend)}" if loads else "compute alone"
    return names


_PROMISES = {"order": "another order", "pixels": "other pixels", "held": "no lasting batches"}


def _declared(rows: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    """What backends say of themselves that they can't promise, a line a row; and how to read the figures of another order."""
    lines = []
    for row in rows:
        if row.differences:
            said = "; ".join(f"{_PROMISES.get(promise, promise)}: {why}" for promise, why in row.differences)
            lines.append(f"Declared by {names[row.cell]}: {said}.{_shuffled(row)}")
    if any(row.order_distance is not None for row in rows):
        lines.append("other order: distance from a uniform shuffle; 0 is none, 1 is not shuffled.")
    return lines


def _shuffled(row: Row) -> str:
    if row.order_distance is None or row.order_tolerance is None:
        return ""
    below = "within" if row.order_distance <= row.order_tolerance else "over"
    text = f" Its order: {row.order_distance:.3f} from a uniform shuffle, {below} the {row.order_tolerance:.3f} of chance"
    mixed = "" if row.class_mix is None else f"; the classes of a batch are {row.class_mix:.2f} times as uneven as at random"
    return f"{text}{mixed}."


_UNEQUAL = {"order": "another order", "pixels": "other pixels", "losses": "other losses", "content": "other content"}


def _doubts(doubts: Sequence[tuple[str, Doubt]], names: Mapping[Cell, str]) -> list[str]:
    spread = [f"{name} ({numbers.percent(doubt.value)})" for name, doubt in doubts if doubt.kind == "spread"]
    short = [f"{name} ({1000 * doubt.value:.0f} ms)" for name, doubt in doubts if doubt.kind == "short"]
    found = [f"Unstable, runs spread over 10 % of their mean: {', '.join(spread)}."] if spread else []
    found += [f"Short, a timed unit under 100 ms: {', '.join(short)}."] if short else []
    return found + _unequal(doubts, names)


def _unequal(doubts: Sequence[tuple[str, Doubt]], names: Mapping[Cell, str]) -> list[str]:
    """One line a row, whatever it differs in."""
    found: dict[str, list[Doubt]] = {}
    for name, doubt in doubts:
        if doubt.kind in _UNEQUAL:
            found.setdefault(name, []).append(doubt)
    lines = []
    for name, differing in found.items():
        what = " and ".join(_UNEQUAL[doubt.kind] for doubt in differing)
        against = ", ".join(names[cell] for cell in differing[0].against if cell in names) or "the other rows"
        rounds = max(doubt.value for doubt in differing)
        lines.append(f"Unequal work: {name} had {what} than {against} (rounds that differ: {rounds:.0f}).")
    return lines
