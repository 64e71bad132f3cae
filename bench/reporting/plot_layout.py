"""Panels for plots: one a group of rows, titled, with a footer that says how the figures came about."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.lines import Line2D

from bench.reporting import wording
from bench.reporting.plot_style import Sheet, sheet
from bench.reporting.summary import Row, grouped
from bench.reporting.wording import Setting

_WIDTH, _SINGLE_WIDTH = 7.0, 5.2  # inches, of a printed page
_TITLE_LETTERS = 35  # of a panel's title, a line
Panels = Sequence[Sequence[Row]]
Legend = Sequence[tuple[Artist, str]]


def groups(rows: Sequence[Row], mode: str) -> list[list[Row]]:
    """Rows of one mode by what can be compared; groups in which nothing ran are left out."""
    found = grouped(row for row in rows if row.cell.mode == mode)
    return [group for group in found if any(row.epoch for row in group)]


def grid(panels: Panels, height: float, title: str, foot: str, legend: Legend = (), least: float = 2.3) -> Sheet:
    """A titled panel a group: data sets down and models across where every pair is there; none narrower than ``least``."""
    datasets = {panel[0].dataset for panel in panels}
    across = len({panel[0].group[1:4] for panel in panels})
    whole = across > 1 and across * len(datasets) == len(panels)
    wanted = across if whole and across <= 3 else min(2, len(panels))
    columns = max(1, min(wanted, int(_WIDTH / least)))
    width = _WIDTH / columns if columns > 1 else max(_SINGLE_WIDTH, least)
    page = sheet(len(panels), columns, (width, height), title, foot, legend)
    titles = _titles(panels)
    for axes, text in zip(page.panels, titles, strict=True):
        axes.set_title(textwrap.fill(text, _TITLE_LETTERS))
    return page


FASTEST = "each format by its fastest way"
"""What a footer says of a plot of ``fastest`` rows."""


def fastest(panel: Sequence[Row]) -> list[Row]:
    """The fastest row of each format, code path and codec; a panel of loading comes fastest first."""
    found: dict[tuple[str, str | None], Row] = {}
    for row in panel:
        if row.images_per_second:
            found.setdefault((row.cell.backend, row.cell.codec), row)
    return list(found.values())


def _titles(panels: Panels) -> list[str]:
    """Data set and model; the cache where panels differ in it; protocol and limit where two would be called the same."""
    mixed = len({panel[0].cell.cache for panel in panels}) > 1
    caches = [wording.way(panel[0].cell, "cache") if mixed else "" for panel in panels]
    parts = [(panel[0].dataset, panel[0].cell.model, cache) for panel, cache in zip(panels, caches, strict=True)]
    short = [" · ".join(part for part in each if part) for each in parts]
    if len(set(short)) == len(short):
        return short
    cells = [panel[0].cell for panel in panels]
    protocols = [cell.protocol if len({cell.protocol for cell in cells}) > 1 else "" for cell in cells]
    limits = ["" if cell.limit is None else f"{cell.limit:,} images" for cell in cells]
    return [" · ".join(part for part in each if part) for each in zip(short, protocols, limits, strict=True)]


def footer(panels: Panels, place: Setting, *what: str) -> str:
    """Experiment, rounds, cache, machine, versions, limit, and what is drawn; lines break between these only."""
    rows = [row for panel in panels for row in panel]
    limits = sorted({row.cell.limit for row in rows if row.cell.limit is not None})
    limited = [f"limited to {', '.join(f'{limit:,}' for limit in limits)} training images"] if limits else []
    parts = [part for part in (place.experiment,) if part] + wording.conditions(rows, place) + limited + [*what]
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def bound_line() -> Line2D:
    """The legend's key of a bound."""
    return Line2D([], [], color="black", linestyle=(0, (4, 2)), linewidth=1)


def intervals(panels: Panels) -> str:
    """What the thin lines are, or why there are none."""
    some = any(row.epoch and row.epoch.half_width is not None for panel in panels for row in panel)
    return "lines: 95 % interval over processes" if some else "one run each, so no intervals"
