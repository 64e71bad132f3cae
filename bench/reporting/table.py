"""Tables of a summary: what stands in which column, as Markdown and for the terminal. ``latex`` writes them for print."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from bench import numbers
from bench.reporting import wording
from bench.reporting.summary import Row, grouped
from bench.reporting.wording import Setting
from bench.stats import Interval, scaled

WIDTH = 100  # letters, of the first table
DETAILS_WIDTH = 118


@dataclass(frozen=True)
class Column:
    """A title, broken into lines where it is long, and which way its figures are aligned."""

    title: tuple[str, ...]
    right: bool = False


@dataclass(frozen=True)
class Line:
    """A row's cells, or only its first ones and the reason for the rest."""

    cells: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """One group of rows, worded.

    Attributes:
        name: of the group, for labels: letters, digits and dashes. title: the same for readers.
        caption, notes: lines.
    """

    name: str
    title: str
    caption: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Headline:
    """The screen that comes first.

    Attributes:
        caption: what ran, where. panels: the table, as many data sets side by side as fit in ``WIDTH``. notes: a line each.
    """

    caption: str
    panels: tuple[Table, ...]
    notes: tuple[str, ...]


_Show = Callable[[Row], str]
_Columns = tuple[tuple[Column, _Show], ...]
_COLD: _Columns = (
    (Column(("read,", "MB/s"), right=True), lambda row: _megabytes(row.read_bytes_per_second)),
    (Column(("in memory", "before"), right=True), lambda row: numbers.percent(row.resident)),
)
_TRAIN: _Columns = (
    (Column(("loading,", "µs an image")), lambda row: _marked(row, _microseconds(row))),
    (Column(("loading", "cost"), right=True), lambda row: numbers.percent(row.held.cost.mean if row.held.cost else None)),
    (Column(("slows the", "model by")), lambda row: numbers.slowdown(row.held.slowdown)),
    (Column(("epoch s,", "measured")), lambda row: numbers.interval(row.epoch)),
    (Column(("first", "epoch s"), right=True), lambda row: _like(row.first_epoch_seconds, row.epoch)),
    (Column(("accuracy",), right=True), lambda row: _accuracy(row)),
    (Column(("F1",), right=True), lambda row: numbers.plain(row.macro_f1, 3)),
    (Column(("load only,", "images/s"), right=True), lambda row: numbers.rate(row.load_images_per_second)),
    *_COLD,
    (Column(("other", "order"), right=True), lambda row: _other_order(row)),
    (Column(("disk",), right=True), lambda row: numbers.mebibytes(row.store_bytes)),
)
_LOAD: _Columns = (
    (Column(("pass s",)), lambda row: _marked(row, row.epoch)),
    (Column(("first", "pass s"), right=True), lambda row: _like(row.first_epoch_seconds, row.epoch)),
    (Column(("images/s",), right=True), lambda row: numbers.rate(row.images_per_second)),
    (Column(("time over", "memory")), lambda row: numbers.interval(row.memory_ratio)),
    *_COLD,
    (Column(("other", "order"), right=True), lambda row: _other_order(row)),
    (Column(("disk",), right=True), lambda row: numbers.mebibytes(row.store_bytes)),
    (Column(("path", "taken")), lambda row: row.path_taken or numbers.ABSENT),
)


def tables(rows: Sequence[Row], place: Setting) -> list[Table]:
    """A table for every data set and model trained, and for loading where no such table shows it."""
    return [_table(group, rows, place) for group in [*shown(rows), *_limits(rows)]]


def shown(rows: Sequence[Row]) -> list[list[Row]]:
    """The groups of rows that have a table; likewise."""
    found = grouped(row for row in rows if row.cell.mode == "train")
    trained = {(row.dataset, row.cell.loading) for row in rows if row.cell.mode == "train"}
    loads = grouped(row for row in rows if row.cell.mode == "load")
    unseen = [group for group in loads if any((row.dataset, row.cell.loading) not in trained for row in group)]
    return found + unseen


def _limits(rows: Sequence[Row]) -> list[list[Row]]:
    """The groups that say what the machine could do at best: no way of loading is chosen from them."""
    return grouped(row for row in rows if row.cell.mode == "limit")


def _table(group: Sequence[Row], rows: Sequence[Row], place: Setting) -> Table:
    compute = next((row for row in rows if row.cell.mode == "compute" and row.group[:4] == group[0].group[:4]), None)
    ways = {(row.dataset, row.cell.loading) for row in group}
    trains = group[0].cell.mode == "train"
    loads = [row for row in rows if trains and row.cell.mode == "load" and (row.dataset, row.cell.loading) in ways]
    others = [*loads, compute] if trains and compute is not None else loads
    fields = wording.columns(group)
    heads = [Column(("backend",)), *(Column((field,)) for field in fields)]
    filled = _filled(_TRAIN if trains else _LOAD, group)
    return Table(
        name=_name(group[0]),
        title=wording.title(group[0]),
        caption=wording.caption(group, place, compute if trains else None),
        columns=(*heads, *(column for column, _ in filled)),
        lines=tuple(_line(row, fields, filled) for row in group),
        notes=tuple(wording.notes(group, others, place)),
    )


def _filled(columns: _Columns, group: Sequence[Row]) -> _Columns:
    """The columns in which any row has a figure."""
    ran = [row for row in group if row.epoch is not None]
    return tuple((column, show) for column, show in columns if any(show(row) != numbers.ABSENT for row in ran) or not ran)


def _name(row: Row) -> str:
    limit = "" if row.cell.limit is None else str(row.cell.limit)
    parts = (
        row.dataset,
        row.cell.model or "load",
        row.cell.protocol,
        limit,
        "" if row.cell.cache == "warm" else row.cell.cache,
    )
    return "-".join("".join(c if c.isalnum() else "-" for c in part).strip("-") for part in parts if part)


def _line(row: Row, fields: Sequence[str], shown: Sequence[tuple[Column, _Show]]) -> Line:
    head = (row.cell.backend, *(wording.way(row.cell, field) for field in fields))
    if row.epoch is None:
        return Line(head, wording.not_run(row))
    return Line((*head, *(show(row) for _, show in shown)))


def _marked(row: Row, found: Interval | None) -> str:
    few = f" n={row.runs}" if row.runs < row.rounds else ""
    return numbers.interval(found) + (" =" if row.tied_above else "") + few


def _like(value: float | None, found: Interval | None) -> str:
    """A single figure with the places of the column's intervals."""
    places = numbers.decimals(value or 0.0, found.half_width if found else None)
    return numbers.plain(value, places)


def _other_order(row: Row) -> str:
    """How far an order that is not the sampler's is from a uniform shuffle; the notes below say what the figure means."""
    return numbers.ABSENT if row.order_distance is None else numbers.plain(row.order_distance, 2)


def _microseconds(row: Row) -> Interval | None:
    return None if row.held.time is None else scaled(row.held.time, 1e6)


def _megabytes(per_second: float | None) -> str:
    return numbers.ABSENT if per_second is None else f"{per_second / 1e6:,.0f}"


def _accuracy(row: Row) -> str:
    return numbers.ABSENT if row.accuracy is None else f"{100 * row.accuracy.mean:.1f} %"


def headline_to_markdown(found: Headline, verdict: Sequence[str]) -> str:
    """The first table, its notes and its verdict."""
    notes = [f"- {_escaped(note)}" for note in found.notes]
    parts = [
        _escaped(found.caption),
        "",
        to_markdown(found.panels),
        *notes,
        "",
        f"**{_escaped(' '.join(verdict))}**",
        "",
    ]
    return "\n".join(parts)


def headline_to_terminal(found: Headline, verdict: Sequence[str]) -> Text:
    """Likewise, for a terminal or a log file."""
    text = Text()
    text.append(_wrapped(found.caption, width=WIDTH) + "\n", style="dim")
    for panel in found.panels:
        text.append("\n" if " | " in panel.title else f"\n{panel.title}\n", style="bold")
        for line, style in _terminal_lines(panel):
            text.append(line.rstrip() + "\n", style=style)
    text.append("\n")
    for note in found.notes:
        text.append(_wrapped(note, "", "  ", WIDTH) + "\n", style="dim")
    text.append("\n" + "\n".join(_wrapped(sentence, width=WIDTH) for sentence in verdict) + "\n\n", style="bold green")
    return text


def to_markdown(found: Sequence[Table]) -> str:
    """GitHub's Markdown, padded so that it also reads as plain text."""
    return "\n".join(_markdown(table) for table in found)


def _markdown(table: Table) -> str:
    titles = [" ".join(column.title) for column in table.columns]
    lines = [line.cells if not line.reason else _reasoned(line, len(titles)) for line in table.lines]
    cells = [[_escaped(cell) for cell in line] for line in [titles, *lines]]
    # A long reason is not padded for: it would push every other row off a plain-text page.
    widths = [max(len(row[place]) for row in cells if not row[place].startswith("not run")) for place in range(len(titles))]
    rule = [
        ("-" * (width - 1) + ":") if column.right else "-" * width for width, column in zip(widths, table.columns, strict=True)
    ]
    body = [_padded(cells[0], widths, table.columns), rule, *(_padded(row, widths, table.columns) for row in cells[1:])]
    parts = [f"### {_escaped(table.title)}", "", *([*_breaks(table.caption), ""] if table.caption else [])]
    parts += [f"| {' | '.join(row)} |" for row in body] + [""]
    parts += [f"- {_escaped(note)}" for note in table.notes] + ([""] if table.notes else [])
    return "\n".join(parts)


def _reasoned(line: Line, count: int) -> tuple[str, ...]:
    return (*line.cells, line.reason, *("" for _ in range(count - len(line.cells) - 1)))


def _breaks(lines: Sequence[str]) -> list[str]:
    return [_escaped(line) + ("  " if place < len(lines) - 1 else "") for place, line in enumerate(lines)]


def _escaped(text: str) -> str:
    # Underscores stay: GitHub leaves them alone inside a word, and gpu_mmap should read as it is.
    for special, escape in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(special, escape)
    return " ".join(text.split())


def _padded(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> list[str]:
    return [
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=False)
    ]


def to_terminal(found: Sequence[Table]) -> Text:
    """The tables for a terminal or a log file; print it with ``soft_wrap=True``, so that nothing is cut off."""
    text = Text()
    for table in found:
        for place, line in enumerate((" · ".join((table.title, *table.caption[:1])), *table.caption[1:])):
            text.append(_wrapped(line) + "\n", style="bold" if place == 0 else "dim")
        text.append("\n")
        for line, style in _terminal_lines(table):
            text.append(line.rstrip() + "\n", style=style)
        for note in table.notes:
            text.append(_wrapped(note, " ", "   ") + "\n", style="dim")
        text.append("\n")
    return text


def _terminal_lines(table: Table) -> list[tuple[str, str]]:
    heights = max(len(column.title) for column in table.columns)
    titles = [[""] * (heights - len(column.title)) + list(column.title) for column in table.columns]
    full = [line.cells for line in table.lines if not line.reason]
    starts = [line.cells for line in table.lines if line.reason]
    widths = [
        max(len(cell) for cell in (*titles[place], *(cells[place] for cells in (*full, *starts) if place < len(cells))))
        for place in range(len(table.columns))
    ]
    lines = [
        (" " + "  ".join(_padded([title[row] for title in titles], widths, table.columns)), "bold") for row in range(heights)
    ]
    for line in table.lines:
        text = " " + "  ".join(_padded(line.cells, widths, table.columns))
        if line.reason:
            indent = " " * (len(text) + 2)
            text = _wrapped(line.reason, text + "  ", indent)
        lines.append((text, "yellow" if line.reason else ""))
    return lines


def _wrapped(text: str, first: str = "", rest: str = "", width: int = DETAILS_WIDTH) -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
