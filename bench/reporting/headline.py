"""The first table of a report: methods against data sets, with what training they can feed, on one screen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import numbers
from bench.experiment import Cell
from bench.reporting import wording
from bench.reporting.loading import COST
from bench.reporting.summary import ENOUGH, Row, grouped
from bench.reporting.table import WIDTH, Column, Headline, Line, Table
from bench.reporting.wording import Setting
from bench.runs import mean
from bench.stats import scaled

FAR = 0.10  # between a prediction and what was measured: said aloud


@dataclass(frozen=True)
class _Block:
    """The columns of one data set: by way of loading, what stands in each."""

    name: str
    columns: tuple[Column, ...]
    cells: Mapping[str, tuple[str, ...]]

    def width(self, *, named: bool) -> int:
        """In letters, with the space before each column; ``named`` where the data set's name stands above the first one."""
        titles = [column.title for column in self.columns]
        if named:
            titles[0] = (self.name, *titles[0])
        rows = [*itertools.zip_longest(*titles, fillvalue=""), *self.cells.values()]
        return sum(2 + max(map(len, column)) for column in zip(*rows, strict=True))

    def beside(self, other: _Block) -> _Block:
        """Both as one; a way of loading that one of them lacks has dashes there."""
        ways = dict.fromkeys((*self.cells, *other.cells))
        cells = {way: (*self.row(way), *other.row(way)) for way in ways}
        return _Block(self.name, (*self.columns, *other.columns), cells)

    def row(self, way: str) -> tuple[str, ...]:
        """What stands in its columns."""
        return self.cells.get(way, (numbers.ABSENT,) * len(self.columns))


def headline(rows: Sequence[Row], place: Setting) -> Headline:
    """Of the rows that ran; what did not run is named once, with its reason."""
    ran = [row for row in rows if row.epoch is not None and row.cell.mode in ("train", "load")]
    names = wording.ways(rows)
    order = _order(ran, names)
    label = max(map(len, order), default=0)
    by_dataset = [[row for row in ran if row.dataset == name] for name in dict.fromkeys(row.dataset for row in ran)]
    blocks = [block for own in by_dataset for block in _blocks(own, names, label)]
    rounds = max((row.rounds for row in rows), default=0)
    named = [] if ran else dict.fromkeys(row.dataset for row in rows)
    parts = [place.experiment, *named, *(wording.conditions(ran or rows, place) if rows else [])]
    return Headline(
        caption=" · ".join(part for part in parts if part),
        panels=tuple(_panel(each, order) for each in _side_by_side(blocks, label)),
        notes=(
            *_legend(ran, rounds),
            *_scores(ran, names),
            *_predicted(ran, names),
            *_slowed(ran, names),
            *_not_run(rows, names),
        ),
    )


def _order(ran: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    """Ways of loading, the fastest first: by the mean over groups of the logarithm of what they take."""
    import numpy as np
    import pandas as pd  # takes a while, and the command line imports this module

    records = [(names[row.cell], str(row.group), mean(row.judged.values())) for row in ran]
    frame = pd.DataFrame(records, columns=["way", "group", "taken"])
    table = frame.pivot_table(index="way", columns="group", values="taken", sort=False)
    logs = np.log(table)
    return list((logs - logs.min()).mean(axis=1).sort_values(kind="stable").index)


def _blocks(ran: Sequence[Row], names: Mapping[Cell, str], label: int) -> list[_Block]:
    """Of one data set: loading alone first, then a pair of columns for each training, the fastest model first."""
    trained = grouped(row for row in ran if row.cell.mode == "train")
    parts = [_training(group, names) for group in sorted(trained, key=lambda group: group[0].speed_alone or 0.0, reverse=True)]
    loaded = {names[row.cell]: row for row in reversed(ran) if row.load_images_per_second}
    if loaded:
        columns = (_right("load only", "images/s"), _right("break-even", "images/s"), _right("disk", "MiB"))
        parts.insert(0, _Block(ran[0].dataset, columns, {name: _alone(row) for name, row in loaded.items()}))
    found: list[_Block] = []
    for part in parts:
        joined = found[-1].beside(part) if found else part
        if found and label + 1 + joined.width(named=False) > WIDTH:
            found.append(replace(part, name=f"{ran[0].dataset}, continued"))
        else:
            found[-1:] = [joined]
    return found


def _training(group: Sequence[Row], names: Mapping[Cell, str]) -> _Block:
    cached = "" if group[0].cell.cache == "warm" else f" {wording.COLD}"
    images = f"{group[0].train_images or 0:,} images{cached}"
    columns = (Column(("", group[0].cell.model or "", "µs an image")), Column(("", images, "epoch, s")))
    return _Block(group[0].dataset, columns, {names[row.cell]: _trained(row, group) for row in group})


def _right(*title: str) -> Column:
    return Column(("", *title), right=True)


def _alone(row: Row) -> tuple[str, str, str]:
    disk = numbers.mebibytes(row.store_bytes).removesuffix(" MiB")
    mark = _mark(row) if row.cell.mode == "load" else ""
    return numbers.rate(row.load_images_per_second) + mark, numbers.rate(row.break_even), disk


def _trained(row: Row, group: Sequence[Row]) -> tuple[str, str]:
    few = f" n={row.runs}" if row.runs < max(each.rounds for each in group) else ""
    time = None if row.held.time is None else scaled(row.held.time, 1e6)
    return numbers.plus_minus(time) + _mark(row) + few, numbers.plus_minus(row.held.epoch)


def _mark(row: Row) -> str:
    if row.bound:
        return ""
    if not row.equal_work:
        return " †"
    if row.runs < ENOUGH:
        return ""
    return " *" if row.best else " =" if row.tied_best else ""


def _side_by_side(blocks: Sequence[_Block], label: int) -> Iterator[list[_Block]]:
    """As many blocks at once as fit beside the labels."""
    panel: list[_Block] = []
    for block in blocks:
        if panel and label + 1 + sum(each.width(named=True) for each in (*panel, block)) > WIDTH:
            yield panel
            panel = []
        panel.append(block)
    if panel:
        yield panel


def _panel(blocks: Sequence[_Block], order: Sequence[str]) -> Table:
    """The panel's title names its data set; where there are several, each is named above its own columns."""
    if len(blocks) == 1:
        columns = [replace(column, title=column.title[1:]) for column in blocks[0].columns]
        columns.insert(0, Column(("", "")))
    else:
        columns = [Column(("", "", ""))]
        for block in blocks:
            first, *others = block.columns
            columns += [replace(first, title=(block.name, *first.title[1:])), *others]
    shown = [name for name in order if any(name in block.cells for block in blocks)]
    rows = [[name, *(cell for block in blocks for cell in block.row(name))] for name in shown]
    title = " | ".join(block.name for block in blocks)
    label = "".join(letter if letter.isalnum() else "-" for letter in title).strip("-")
    return Table(f"formats-{label}", title, (), tuple(columns), tuple(Line(tuple(row)) for row in rows), ())


def _legend(ran: Sequence[Row], rounds: int) -> list[str]:
    if not ran:
        return []
    marks = [
        "* fastest format" if rounds >= ENOUGH and any(row.best for row in ran) else "",
        "= not told from it (95 %, all pairs corrected)" if rounds >= ENOUGH and any(row.tied_best for row in ran) else "",
        "† other work, see --details" if any(not row.equal_work and not row.bound for row in ran) else "",
        f"± 95 % interval of {rounds} runs." if rounds > 1 else "One run each: no intervals, and nothing is decided.",
    ]
    lines = ["; ".join(mark for mark in marks if mark)]
    if any(row.held.time for row in ran):
        lines.append("µs an image: how long training waits for one; epoch: with it, the model's own time taken as equal.")
    if any(row.load_images_per_second for row in ran):
        lines.append(f"break-even: up to this speed of training, loading costs under {100 * COST:g} % of an epoch.")
    return lines


def _scores(ran: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    """Accuracy and F1, which are facts of the protocol: one line a data set and model, loud where formats differ."""
    return [_score(group, names) for group in grouped(row for row in ran if row.accuracy is not None)]


def _score(group: Sequence[Row], names: Mapping[Cell, str]) -> str:
    first = max(group, key=lambda row: row.runs)
    text = f"{first.dataset}, {first.cell.model}: {_reached(first)}"
    if first.device not in ("", "cpu"):
        accuracies = [100 * row.accuracy.mean for row in group if row.accuracy]
        return f"{text}; all {len(group)}: {min(accuracies):.1f} to {max(accuracies):.1f} % (a GPU's sums have no fixed order)."
    others = [row for row in group if _differ(row.losses, first.losses)]
    if not others:
        return f"{text}; losses of all {len(group)} equal bit for bit."
    listed = ", ".join(f"{names[row.cell]} {_reached(row)}" for row in others)
    if any(row.cell.codec == first.cell.codec or not row.equal_work for row in others):
        return f"{text}; NOT THE SAME TRAINING: {listed}; see --details."
    return f"{text}; losses of {len(group) - len(others)} equal bit for bit; of another codec: {listed}."


def _differ(a: Mapping[int, int], b: Mapping[int, int]) -> bool:
    return any(a[number] != b[number] for number in a.keys() & b.keys())


def _reached(row: Row) -> str:
    found = row.accuracy
    if found is None:
        return "no accuracy"
    spread = "" if found.half_width is None else f" ±{100 * found.half_width:.1f} ({found.n} seeds)"
    return f"accuracy {100 * found.mean:.1f} %{spread}, F1 {row.macro_f1 or 0.0:.2f}"


def _predicted(ran: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    """How far training is from what loading alone and the model alone say."""
    apart = [(row, row.predicted / row.speed - 1) for row in ran if row.predicted and row.speed]
    if not apart:
        return []
    far = [f"{_where(row, names)} {numbers.signed_percent(part)}" for row, part in apart if abs(part) > FAR]
    if far:
        return [f"TRAINING IS NOT AS PREDICTED from loading alone, by over {100 * FAR:g} %: {'; '.join(far)}."]
    most = numbers.percent(max(abs(part) for _, part in apart))
    return [f"Training speed as predicted from loading alone is within {most} of the measured, in all {len(apart)} trainings."]


def _slowed(ran: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    slow = [f"{_where(row, names)} {numbers.slowdown(row.held.slowdown)}" for row in ran if row.held.slowed]
    return [f"Loading slows the model beside it, which is counted in µs an image: {'; '.join(slow)}."] if slow else []


def _where(row: Row, names: Mapping[Cell, str]) -> str:
    return f"{names[row.cell]}, {row.dataset}, {row.cell.model}"


def _not_run(rows: Sequence[Row], names: Mapping[Cell, str]) -> list[str]:
    """Each backend and reason once, whatever it was to be read for; where it ran in part, what did not."""
    ran = {part for row in rows if row.epoch is not None for part in (row.cell.backend, (row.dataset, row.cell.backend))}
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.epoch is None and row.cell in names:
            backend = row.cell.backend
            part = f"{names[row.cell]} on {row.dataset}, {row.cell.model or 'loading only'}"
            alone = f"{backend} on {row.dataset}" if backend in ran else backend
            name = part if (row.dataset, backend) in ran else alone
            reasons.setdefault(wording.not_run(row).removeprefix("not run: "), {})[name] = None
    found = "; ".join(f"{', '.join(those)} ({reason})" for reason, those in reasons.items())
    return [f"Not run: {found}."] if found else []
