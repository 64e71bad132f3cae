"""Plots of points and curves: accuracy against time, losses, size against speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from bench import numbers
from bench.experiment import Cell
from bench.record import Record
from bench.reporting import plot_style, wording
from bench.reporting.plot_layout import FASTEST, bound_line, fastest, footer, grid, groups, intervals
from bench.reporting.plot_style import look
from bench.reporting.summary import BOUND, Row
from bench.reporting.wording import Setting
from bench.stats import scaled

_FILLS = ("full", "open", "left", "top", "right", "bottom")
_CURVE_POINTS = 400


def accuracy_time(rows: Sequence[Row], place: Setting) -> Figure | None:
    """Accuracy against epoch time, with both intervals."""
    panels = [[row for row in panel if row.epoch and row.accuracy] for panel in groups(rows, "train")]
    panels = [panel for panel in panels if panel]
    if not panels:
        return None
    cells = [row.cell for panel in panels for row in panel]
    names, legend = _markers({cell: wording.variant(cell, cells) for cell in cells})
    page = grid(panels, 2.3, "Accuracy against epoch time", footer(panels, place, intervals(panels)), legend)
    for axes, panel in zip(page.panels, panels, strict=True):
        for row in panel:
            if row.epoch and row.accuracy:
                accuracy = scaled(row.accuracy, 100)
                x_errors, y_errors = plot_style.arms(row.epoch), plot_style.arms(accuracy)
                axes.errorbar(row.epoch.mean, accuracy.mean, y_errors, x_errors, **names[row.cell], linewidth=1)
        axes.margins(0.12)
        axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))  # nor may a margin pass it
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel="epoch, seconds", ylabel="accuracy, %")
    return page.figure


def loss(records: Sequence[Record], rows: Sequence[Row], place: Setting) -> Figure | None:
    """The loss curves of one round laid over each other, the widest first, so that equal ones show as stripes."""
    panels = []
    for panel in groups(rows, "train"):
        curves = _curves(records, [row.cell for row in panel])
        if curves:
            panels.append((panel, curves))
    if not panels:
        return None
    cells = [cell for _, curves in panels for cell in curves]
    backends = sorted({cell.backend_name for cell in cells})
    legend = [(Line2D([], [], color=look(backend).colour, linewidth=3), backend) for backend in backends]
    seeds = sorted({record.seed for _, curves in panels for record in curves.values()})
    foot = footer([panel for panel, _ in panels], place, f"curves of one round, seed {', '.join(map(str, seeds))}")
    page = grid([panel for panel, _ in panels], 2.4, "Training loss, all ways of loading laid over each other", foot, legend)
    for axes, (_, curves) in zip(page.panels, panels, strict=True):
        _draw_curves(axes, curves)
    return page.figure


def _curves(records: Sequence[Record], cells: Sequence[Cell]) -> dict[Cell, Record]:
    """The runs of the round in which most of these cells ended well."""
    rounds: dict[int, dict[Cell, Record]] = {}
    for record in records:
        if record.status == "ok" and record.losses and record.cell in cells:
            rounds.setdefault(record.round, {})[record.cell] = record
    if not rounds:
        return {}
    fullest = max(sorted(rounds), key=lambda number: len(rounds[number]))
    return {cell: rounds[fullest][cell] for cell in cells if cell in rounds[fullest]}


def _draw_curves(axes: Axes, curves: Mapping[Cell, Record]) -> None:
    longest = max(len(record.losses) for record in curves.values())
    block = -(-longest // _CURVE_POINTS)
    for place, (cell, record) in enumerate(curves.items()):
        steps, means = _blocks(record.losses, block)
        width = 1.5 + 4.5 * (len(curves) - 1 - place) / max(1, len(curves) - 1)
        dashes = "solid" if place == 0 else (0, (2.0 + 4.0 / width, 2.0))
        axes.plot(steps, means, color=look(cell.backend_name).colour, linewidth=width, linestyle=dashes, dash_capstyle="butt")
    distinct = len({record.losses for record in curves.values()})
    coincide = (
        f"{len(curves)} curves coincide bit for bit" if distinct == 1 else f"{len(curves)} curves, {distinct} of them distinct"
    )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel=f"step\n{coincide}", ylabel="training loss" + (f"\n(mean of {block} steps)" if block > 1 else ""))


def _blocks(losses: Sequence[float], block: int) -> tuple[list[float], list[float]]:
    """Means of runs of ``block`` steps, at the middle of each."""
    starts = range(0, len(losses), block)
    parts = [losses[start : start + block] for start in starts]
    steps = [start + (len(part) + 1) / 2 for start, part in zip(starts, parts, strict=True)]
    return steps, [sum(part) / len(part) for part in parts]


def size_speed(rows: Sequence[Row], place: Setting) -> Figure | None:
    """Images a second when only loading, against the size on disk; ``memory`` takes no disk and is a line."""
    every = groups(rows, "load")
    panels = [panel for panel in every if any(_sized(row) for row in panel)]
    if not panels:
        return None
    cells = [row.cell for panel in panels for row in panel if _sized(row)]
    variants = {cell: wording.variant(cell, cells) for cell in cells}
    what = intervals(panels)
    if len(set(variants.values())) > len(_FILLS):  # too many to tell apart
        panels, what = [fastest(panel) for panel in panels], f"{FASTEST}; {what}"
        variants = {cell: name for panel in panels for cell, name in _layouts(panel).items()}
    names, legend = _markers(variants)
    if any(row.bound and row.epoch for panel in panels for row in panel):
        legend.append((bound_line(), "memory: the split in RAM, a bound"))
    page = grid(panels, 2.4, "Disk size against load speed", footer(panels, place, what), legend)
    for axes, panel in zip(page.panels, panels, strict=True):
        for row in panel:
            _draw_speed(axes, row, names)
        axes.set(xscale="log", yscale="log", xlabel="size on disk, MiB", ylabel="load only, images/s")
        axes.margins(0.15)
        _log_ticks(axes)
    return page.figure


def _layouts(panel: Sequence[Row]) -> dict[Cell, str]:
    """The variants of a panel whose rows differ in code path and codec alone, as far as a name has to tell."""
    plain = {
        row.cell: row.cell.model_copy(update={"engine": "torch", "fetch": "batch", "workers": 0})
        for row in panel
        if _sized(row)
    }
    return {cell: wording.variant(bare, plain.values()) for cell, bare in plain.items()}


def _sized(row: Row) -> bool:
    return bool(row.store_bytes and row.epoch and row.images_per_second and not row.bound)


def _draw_speed(axes: Axes, row: Row, names: Mapping[Cell, dict[str, Any]]) -> None:
    if row.bound and row.images_per_second:
        axes.axhline(row.images_per_second, color="black", linestyle=(0, (4, 2)), linewidth=1)
    elif _sized(row) and row.images_per_second and row.epoch and row.store_bytes:
        errors = None
        if row.epoch.low is not None and row.epoch.high is not None and row.epoch.low > 0:
            images = row.images_per_second * row.epoch.mean
            errors = ([row.images_per_second - images / row.epoch.high], [images / row.epoch.low - row.images_per_second])
        axes.errorbar(row.store_bytes / 2**20, row.images_per_second, yerr=errors, **names[row.cell], linewidth=1)


def _log_ticks(axes: Axes) -> None:
    for axis, (low, high), words in ((axes.xaxis, axes.get_xlim(), "{:g}".format), (axes.yaxis, axes.get_ylim(), numbers.rate)):
        wide = high / low > 8
        locator = LogLocator(subs=(1, 2, 5)) if wide and high / low < 200 else LogLocator() if wide else MaxNLocator(4)
        plot_style.plain_log(axis, locator, words)


def _markers(variants: Mapping[Cell, str]) -> tuple[dict[Cell, dict[str, Any]], list[tuple[Artist, str]]]:
    """A marker for every backend, filled in another way for each variant of loading, and the legend's keys to both."""
    fills = {name: _FILLS[place % len(_FILLS)] for place, name in enumerate(sorted(set(variants.values())))}
    styles = {cell: _filled(_marker(cell.backend_name), fills[name]) for cell, name in variants.items()}
    backends = sorted({cell.backend_name for cell in variants})
    keys: list[tuple[Artist, str]] = [(Line2D([], [], **_marker(backend)), backend) for backend in backends]
    if len(fills) > 1:
        plain: dict[str, Any] = {**_marker(""), "color": plot_style.GREY, "marker": "o"}
        keys += [(Line2D([], [], **_filled(plain, fill)), name) for name, fill in fills.items()]
    return styles, keys


def _marker(backend: str) -> dict[str, Any]:
    bound = backend == BOUND
    return {
        "color": look(backend).colour,
        "marker": look(backend).marker,
        "markeredgecolor": "black",
        "markeredgewidth": 0.8,
        "markerfacecoloralt": "white",
        "linestyle": "none",
        "markersize": 10 if bound else 6,  # its points show behind those that it coincides with
        "zorder": 2 if bound else 3,
    }


def _filled(marker: dict[str, Any], fill: str) -> dict[str, Any]:
    if fill == "open":  # white inside, so that grid and interval do not show through
        return marker | {"markerfacecolor": "white", "markeredgecolor": marker["color"], "markeredgewidth": 1.6}
    return marker | {"fillstyle": fill}
